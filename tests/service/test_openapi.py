"""The OpenAPI document: kept as it was agreed on, whole, and true."""

import base64
import json

import numpy as np
import pytest

from gallery.errors import StoreError
from service import calibration_schemas, schemas
from service.app import create_app
from service.errors import ERROR_TABLE, ClientGone, StartupError, status_and_code
from service.routes import examples
from service.settings import Settings
from tests.service.make_openapi import GOLDEN, document

METHODS = {"get", "post", "patch", "delete"}
MODELS = {
    "EMBEDDED": schemas.EmbedAnswer,
    "ENROLLED": schemas.EnrollAnswer,
    "FOUND": schemas.SearchAnswer,
    "ENTRY": schemas.EntryOut,
    "ENTRIES": schemas.EntriesAnswer,
    "IDENTITY": schemas.IdentityOut,
    "IDENTITIES": schemas.IdentitiesAnswer,
    "IDENTITY_PAGE": schemas.IdentityAnswer,
    "RENAMED": schemas.RenamedAnswer,
    "RECEIPT": schemas.ReceiptAnswer,
    "DELETED": schemas.DeletedAnswer,
    "STATS": schemas.StatsAnswer,
    "SNAPSHOT": schemas.SnapshotOut,
    "SNAPSHOTS": schemas.SnapshotsAnswer,
    "MODEL": schemas.ModelAnswer,
    "CALIBRATION": calibration_schemas.CalibrationAnswer,
    "CALIBRATED": calibration_schemas.CalibratedAnswer,
    "ALIVE": schemas.LiveAnswer,
    "READY": schemas.ReadyAnswer,
}
BELOW = {  # the server's and the framework's own
    (400, "invalid_http"),
    (404, "not_found"),
    (405, "method_not_allowed"),
    (408, "receive_timeout"),
    (431, "head_too_large"),
    (503, "overloaded"),
}
NEVER_ANSWERED = {ClientGone, StartupError, StoreError}  # the last as itself: galleries that do not open


@pytest.fixture(name="spec", scope="module")
def spec_fixture():
    return create_app(Settings(_env_file=None)).openapi()


@pytest.fixture(name="calls", scope="module")
def calls_fixture(spec):
    """Every operation by its id."""
    return {call["operationId"]: call for methods in spec["paths"].values() for call in methods.values()}


def error_codes(call):
    """The codes that an operation documents, each with its status."""
    return {
        (int(status), code)
        for status, answer in call["responses"].items()
        if int(status) >= 400
        for code in answer["content"]["application/json"]["examples"]
    }


def test_the_document_is_the_one_that_was_agreed_on():
    renew = "the contract has changed: python -m tests.service.make_openapi, and look at the difference"
    assert GOLDEN.read_text() == document(), renew


def test_every_operation_has_a_short_name_and_a_sentence(spec, calls):
    assert set().union(*map(set, spec["paths"].values())) <= METHODS
    assert len(calls) == sum(map(len, spec["paths"].values())) >= 20
    assert [name for name, call in calls.items() if not name.isidentifier() or len(call["description"]) < 15] == []


def test_every_good_answer_of_every_operation_has_a_form_and_an_example(calls):
    for name, call in calls.items():
        for status, answer in call["responses"].items():
            if int(status) < 400:
                assert answer["content"], (name, status)
                as_json = answer["content"].get("application/json")
                assert as_json is None or (as_json["schema"] and as_json["example"]), (name, status)


def test_every_error_of_every_operation_has_the_one_form_and_an_example_of_each_code(calls):
    codes = {status_and_code(kind)[::-1] for kind in ERROR_TABLE} | {("internal_error", 500)}
    codes |= {("gallery_not_ready", 503), ("store_full", 503)}  # readyz says 503 whichever part is not ready
    codes |= {(code, status) for status, code in BELOW}
    for name, call in calls.items():
        for status, answer in call["responses"].items():
            if int(status) >= 400:
                content = answer["content"]["application/json"]
                assert content["schema"] == {"$ref": "#/components/schemas/ErrorAnswer"}, (name, status)
                for code, example in content["examples"].items():
                    schemas.ErrorAnswer.model_validate(example["value"])
                    assert (code, int(status)) in codes and example["value"]["error"]["code"] == code


def test_every_operation_can_fail_unexpectedly_and_refuses_unknown_parameters(calls):
    for name, call in calls.items():
        assert {(500, "internal_error"), (422, "invalid_request")} <= error_codes(call), name


def test_every_operation_lists_what_is_answered_below_the_application(calls):
    assert [name for name, call in calls.items() if not error_codes(call) >= BELOW] == []


def test_no_status_of_any_operation_goes_without_saying(calls):
    assert [name for name, call in calls.items() if not all(map(str.isdigit, call["responses"]))] == []  # default, 5XX


def test_every_error_that_can_be_answered_is_documented_somewhere(calls):
    documented = set().union(*map(error_codes, calls.values()))
    assert {status_and_code(kind) for kind in set(ERROR_TABLE) - NEVER_ANSWERED} - documented == set()


def test_every_operation_but_the_probes_asks_for_a_key(calls):
    assert {name for name, call in calls.items() if "security" not in call} == {"livez", "readyz"}
    assert all((401, "missing_key") in error_codes(call) for call in calls.values() if "security" in call)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_example_holds_against_its_model(name):
    example = getattr(examples, name)
    model = MODELS[name].model_validate(example)
    assert set(example) <= set(model.model_dump())


def test_no_example_is_left_out():
    assert {name for name, value in vars(examples).items() if name.isupper() and isinstance(value, dict)} == set(MODELS)


def test_no_body_holds_what_client_generators_drop_it_for(calls):
    schemas_of_bodies = [
        (name, schema)
        for name, call in calls.items()
        for form in call.get("requestBody", {"content": {}})["content"].values()
        for schema in schemas_within(form["schema"])
    ]
    assert len(schemas_of_bodies) > 50
    assert [(name, one) for name, one in schemas_of_bodies if isinstance(one.get("default"), dict | list)] == []
    assert [(name, one) for name, one in schemas_of_bodies if "properties" in one and not one.get("title")] == []


def schemas_within(schema):
    """A schema and all that it is made of."""
    yield schema
    parts = [*schema.get("anyOf", ()), *schema.get("properties", {}).values()]
    for part in parts + ([schema["items"]] if "items" in schema else []):
        yield from schemas_within(part)


def test_every_json_body_has_examples_and_the_service_accepts_them_one_after_the_other(spec, serving, fake):
    client = serving(embed=fake())
    bodies = [
        (method, path, call["requestBody"]["content"]["application/json"]["examples"])
        for path, methods in spec["paths"].items()
        for method, call in methods.items()
        if "requestBody" in call
    ]
    assert [(method, path) for method, path, _ in bodies] == [
        ("post", "/embed"),
        ("post", "/search"),
        ("post", "/gallery"),
        ("patch", "/gallery/identities/{pid}"),
    ]
    for method, path, named in bodies:
        for name, example in named.items():
            pid = {"rename": "alice", "merge": "alice-2"}.get(name)
            answer = client.request(method.upper(), path.format(pid=pid), json=example["value"])
            assert answer.status_code in (200, 201), (path, name, answer.text)
            assert all("error" not in result for result in answer.json().get("results", ())), (path, name, answer.text)


def test_every_link_leads_to_an_operation_and_fills_its_path(calls, spec):
    paths = {call["operationId"]: path for path, methods in spec["paths"].items() for call in methods.values()}
    links = [
        link for call in calls.values() for answer in call["responses"].values() for link in answer.get("links", {}).values()
    ]
    assert len(links) >= 10
    for link in links:
        known = {parameter["name"] for parameter in calls[link["operationId"]].get("parameters", [])}
        assert set(link["parameters"]) <= known
        assert all(f"{{{name}}}" in paths[link["operationId"]] or name == "entry_id" for name in link["parameters"])


def test_the_document_is_plain_json_and_says_which_version_it_is(client, spec):
    served = client.get("/openapi.json")
    assert served.status_code == 200 and served.json() == json.loads(json.dumps(spec))
    assert spec["openapi"].startswith("3.1") and spec["info"]["title"] == "bnneck-reid"


def test_every_default_of_the_document_may_be_sent_as_generated_clients_do(calls, client):
    parameters = calls["search_by"]["parameters"]
    defaults = {one["name"]: one["schema"]["default"] for one in parameters if one["schema"].get("default") is not None}
    assert len(defaults) >= 9
    vector = np.eye(16, dtype="<f4")[0].tobytes()
    answer = client.get("/search", params={**defaults, "embedding": base64.urlsafe_b64encode(vector).decode()})
    assert answer.status_code == 200, answer.text
