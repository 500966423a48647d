"""The Flask application that is measured: the smallest that routes a request."""

# mypy: disable-error-code="import-not-found,untyped-decorator"

from flask import Flask

app = Flask(__name__)


@app.get("/")
def hello() -> str:
    return "Hello, World!"
