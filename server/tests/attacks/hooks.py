"""What schemathesis cannot know, each with its reason: openapi.py has it loaded. A finding is
dropped only where the answer shows that it is none; everything else is mended."""

import json
import os
import urllib.request

import schemathesis
from schemathesis.core.failures import AcceptedNegativeData
from schemathesis.openapi.checks import IgnoredAuth, RejectedPositiveData

# A schema says of each value alone whether it is well formed: not that `from` is before `to`, that
# dimensions have a cube together, that a cursor is the last answer's, or that a body is compressed
# as it says. What is left to refuse of a well-formed request: codes, and parameters of a
# `bad_parameter`.
QUESTION = {"no_such_cube", "granularity_expired", "unknown_column", "unknown_dimension", "too_many_rows"}
RANGE = {"from", "to", "last", "window", "granularity", "filter", "order_by"}
RECORDS = ({"bad_cursor", "unknown_dimension"}, {"filter"})
BODY = {"body_not_json", "body_empty", "body_corrupt", "body_truncated"}
LEFT = {
    "GET /v1/query": (QUESTION, RANGE),
    "GET /v1/snapshot": (QUESTION, RANGE),
    # Lists may be text there.
    "POST /v1/query": (QUESTION | {"unknown_metric"}, RANGE | {"metrics", "group_by"}),
    "GET /v1/events/tail": RECORDS,
    "GET /v1/dead-letters": RECORDS,
    "GET /v1/events/{event_id}/trace": (set(), {"from", "to"}),
    "PUT /v1/dimensions/{table}": ({"table_invalid"}, set()),
    "POST /v1/events": (BODY, set()),
    # 128 bytes are no number of letters.
    "POST /v1/imports/{name}/events": (BODY | {"import_name_invalid"}, set()),
    # See `before_call`.
    "GET /v1/live": ({"websocket_expected"}, set()),
}
# Too much, or too slow: a refusal, too.
TOO_MUCH = {408, 413, 414, 431}
# Whatever stands in a body of these is text.
TEXTS = {"text/csv", "application/x-ndjson"}


@schemathesis.serializer("application/x-ndjson")
def ndjson(context, value):
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")


@schemathesis.hook
def filter_failure(context, failure, case, response):
    if isinstance(failure, RejectedPositiveData):
        return not is_left_to_refuse(case, response)
    if isinstance(failure, AcceptedNegativeData):
        is_refused = response.status_code in TOO_MUCH or is_rejected_within(case, response)
        return not is_refused and case.media_type not in TEXTS
    if isinstance(failure, IgnoredAuth):
        # Guesses have a rate: it tries the same wrong token again and again.
        return "got `429" not in failure.message
    return True


def is_left_to_refuse(case, response):
    codes, parameters = LEFT.get(case.operation.label, (set(), set()))
    problem = response.json()
    is_named = problem["code"] == "bad_parameter" and problem["parameter"] in parameters
    return is_named or problem["code"] in codes


def is_rejected_within(case, response):
    """A batch that was read is answered by 200, even where every event in it is rejected."""
    if not case.operation.label.startswith("POST ") or not case.operation.path.endswith("/events"):
        return False
    answer = response.json()
    return answer["rejected"] > 0 or answer["accepted"] == 0


@schemathesis.hook
def before_call(context, case, kwargs):
    label = case.operation.label
    if label == "GET /v1/live":
        # A handshake in due form opens a WebSocket, on a connection that schemathesis would go on
        # to speak HTTP over; server/tests and query/src/live try it in earnest.
        case.headers["Upgrade"] = "none"
    elif label == "DELETE /v1/session" and "Cookie" in kwargs.get("headers", {}):
        # Each sign-out has a session of its own, or all that comes later would be signed out.
        kwargs["headers"]["Cookie"] = signed_in()


def signed_in():
    """The cookie of a new session."""
    body = json.dumps({"token": os.environ["ATTACKED_TOKEN"]}).encode()
    request = urllib.request.Request(os.environ["ATTACKED_URL"] + "/v1/session", data=body)
    with urllib.request.urlopen(request) as answer:
        return answer.headers["Set-Cookie"].split(";")[0]
