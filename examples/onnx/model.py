"""The network of ``examples.digits`` as an ONNX file, made when there is none yet."""

import os
from pathlib import Path

import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from sklearn.neural_network import MLPClassifier

from examples.digits.model import train

FILE = Path(__file__).with_name("digits.onnx")


def load() -> onnxruntime.InferenceSession:
    """The network, ready to run: pixels (n, 64) in, probabilities (n, 10) out."""
    if not FILE.exists():
        # Under its name there is a whole file or none, whoever else makes it now.
        new = FILE.with_suffix(f".{os.getpid()}")
        onnx.save(_convert(train()), new)
        new.replace(FILE)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # a batch is too small to be shared out
    return onnxruntime.InferenceSession(FILE, options)


def _convert(network: MLPClassifier) -> onnx.ModelProto:
    weights = dict(zip(("w1", "w2"), network.coefs_, strict=True))
    weights |= dict(zip(("b1", "b2"), network.intercepts_, strict=True))
    nodes = [
        helper.make_node("Gemm", ["pixels", "w1", "b1"], ["sums"]),
        helper.make_node("Relu", ["sums"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "w2", "b2"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"]),
    ]
    float32 = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("pixels", float32, ["n", 64])],
        [helper.make_tensor_value_info("probabilities", float32, ["n", 10])],
        [numpy_helper.from_array(w.astype("f4"), name) for name, w in weights.items()],
    )
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=9)
