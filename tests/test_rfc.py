"""RFC 9112 and RFC 9110, as far as they bind a server: which test shows which rule.

One entry for each: section, rule, and after the dash what shows it. A name without a
file is a pattern for files of tests/wire; others are file::test.

RFC 9112
2.2     empty lines before a request line, but not for ever - *empty-line*
2.2     CR LF ends lines; bare CR, bare LF and NUL do not pass -
        *bare-cr* *bare-lf* *-nul* *-cr-cr-lf*
2.2     white space before the first field - 400-field-first-indented*
2.3     versions, and what is no HTTP at all - *-version-* 505-http-* 400-protocol-*
        400-random-bytes 400-tls-client-hello 400-http-2-preface-cut-wrong
3       one space between the parts of a request line - 400-request-line-*
3       a target too long -
        test_limits.py::test_request_is_refused_just_beyond_its_limit
3.1     methods have an upper and a lower case, and are tokens - *method-* get head
3.2     Host: one, wherever it stands; malformed ones - *-host-* host-*
3.2.1   origin-form - target-* 400-target-* get-with-query
3.2.2   absolute-form, which overrides Host - *target-absolute-*
3.2.3   authority-form is for CONNECT - 400-target-authority* 501-method-connect*
3.2.4   asterisk-form is for OPTIONS - *target-*asterisk*
4       status lines - test_replies.py::test_every_status_has_the_registered_reason
5       names are tokens, and a colon follows - *field-name-* 400-field-*
5.1     white space around values is no part of them - field-value-space-around
5.2     folded lines - *-folded*
6.1     Transfer-Encoding that is not just chunked - *transfer-encoding-*
6.1     both lengths, or HTTP/1.0 with chunks - 400-*-and-* 400-*-encoding-on-http-1.0
6.2     Content-Length is one number - *content-length*
6.3     what follows a body is the next message - *looks-like-a-request *-after-*
        get-with-body post-without-body
7.1     chunks - chunked* *chunk-size-* *chunk-data-* *chunk-end-* *chunks-*
7.1.1   extensions are ignored, if they are some - *chunk-*extension*
7.1.2   trailers are dropped, never merged - *trailer-*
8       cut off - test_pipelining.py::test_request_that_is_cut_off_is_not_handled
8       a reply too -
        test_streaming.py::test_stream_that_raises_breaks_its_connection_alone
9.3     persistence, on 1.1 and 1.0 - connection-* http-1.0-* proxy-connection-*
9.3     chunks on 1.0 -
        test_streaming.py::test_stream_on_http_1_0_ends_with_the_connection
9.3.2   pipelining - *pipeline*
9.3.2   order - test_pipelining.py::test_requests_in_any_split_are_answered_in_order
9.5     time-outs - test_timeouts.py::test_all_timeouts_are_on_by_default
9.6     nothing behind close -
        test_pipelining.py::test_nothing_is_answered_behind_connection_close
9.6     nor behind a bad message - test_wire.py::test_rejected
9.6     half-closed -
        test_pipelining.py::test_client_that_closes_its_sending_half_gets_all_replies
11.1    split replies -
        test_replies.py::test_malformed_reply_is_a_500_and_one_line_that_says_why
11.2    smuggling, by leniency - c/test_http.c::test_every_lenient_flag_of_llhttp_is_off
11.2    by the way bytes come - test_wire.py::test_mutations_mean_the_same_in_any_split

RFC 9110
2.5     a reply is HTTP/1.1, also to 1.0 -
        test_wire.py::test_100_is_not_sent_to_who_does_not_wait_for_it
4.2.1   no http URI without a host - *without-host
4.2.3   an empty path is "/" - target-absolute-without-path*
4.2.4   user information - 400-*userinfo 400-*password
5.1     names in any case - *-in-any-case
5.3     order and repetition - field-repeated-keeps-order
5.4     limits - test_limits.py::test_defaults_are_limits 431-*
5.5     bytes of values - *field-value-*
5.6.1   lists, with empty elements - connection-empty-elements expect-continue-in-a-list
6.4.1   no body - test_replies.py::test_status_without_body_is_sent_without
6.5.1   what a trailer may not change - trailer-is-no-*
6.6.1   Date - test_replies.py::test_date_is_now_in_the_one_format
7.2     Host - c/test_target.c::test_hosts_that_are_not
7.4     misdirected requests - 421-*
7.6.1   options of Connection -
        connection-option-unknown connection-quoted* te-is-a-field
7.6.1   a handler's - test_replies.py::test_connection_close_ends_the_connection
7.6.2   Max-Forwards is the handler's - *max-forwards*
7.8     Upgrade is ignored - upgrade-* 505-http-2-preface*
8.6     Content-Length of HEAD and 304 -
        test_replies.py::test_304_and_head_may_have_the_length_that_a_get_would_have
8.6     that is wrong -
        test_streaming.py::test_stream_that_is_not_of_its_length_breaks_the_connection
9.1     unknown methods - 501-method-*
9.3.2   HEAD - test_replies.py::test_head_is_answered_as_get_but_without_body
9.3.2   HEAD that is refused - test_wire.py::test_refused_head_request_gets_no_body
9.3.6   CONNECT - 501-method-connect*
9.3.7   OPTIONS - method-options* target-asterisk
9.3.8   TRACE is the handler's, like any method - method-trace*
10.1.1  Expect - *expect-*
10.1.1  when 100 is sent -
        test_wire.py::test_100_is_sent_once_and_behind_the_replies_before_it
10.1.1  when not - test_wire.py::test_100_is_not_sent_to_who_does_not_wait_for_it
10.2.4  Server - test_replies.py::test_server_field_is_the_option
15      no 1xx of a handler -
        test_replies.py::test_malformed_reply_is_a_500_and_one_line_that_says_why
15.3.5  204 - test_replies.py::test_204_has_no_length_even_if_the_handler_gives_one
15.5    errors - test_wire.py::test_error_reply_says_nothing_but_its_status
15.5.9  408 - test_timeouts.py::test_head_that_stops_is_answered_408
15.5.14 413 -
        test_pitfalls.py::test_refused_body_that_looks_like_a_request_is_not_parsed
17.5    lengths of fields - test_pitfalls.py::test_too_much_of_header_fields_is_431

Stricter than it must be, since no honest client sends it: white space around the parts
of a chunk extension (7.1.1), a Content-Length twice with the same value (9110 8.6), a
tab behind "chunked", and control bytes in values (9110 5.5). More lenient than it
should be (9112 3.2), since browsers send it: printable bytes in a target which no URI
has. https as the scheme of a target is taken, because a gateway that ends TLS may send
it; what came over TLS is for that gateway to say (9110 7.4). OPTIONS with the
absolute-form of an empty path has the path "/".
"""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def read_table() -> list[tuple[str, str]]:
    """The section of each line above, and one of what shows its rule."""
    assert __doc__
    lines = __doc__.replace("\n        ", " ")
    return [
        (section, shown)
        for section, all_shown in re.findall(r"(?m)^(\d[\d.]*) +.* - (.*)$", lines)
        for shown in all_shown.split()
    ]


@pytest.mark.parametrize(("section", "shown"), read_table())
def test_what_shows_a_rule_is_there(section: str, shown: str) -> None:
    file, _, test = shown.rpartition("::")
    if not file:
        assert any(TESTS.glob(f"wire/*/{shown}.http")), section
    elif file.endswith(".c"):
        assert f"RUN({test});" in (TESTS / file).read_text(), section
    else:
        assert f"\ndef {test}(" in (TESTS / file).read_text(), section


def test_every_wire_file_shows_some_rule() -> None:
    patterns = [shown for _, shown in read_table() if "::" not in shown]
    shown = {path for shown in patterns for path in TESTS.glob(f"wire/*/{shown}.http")}
    assert shown == set(TESTS.glob("wire/*/*.http"))
