"""Who is answered, and with what."""

import http.client
import json
from urllib.parse import urlsplit

import numpy as np
import pytest
from click.testing import CliRunner

from dvis_d2.cli import main


def ask(page, path="", method="POST", body=None, **headers):
    url = urlsplit(page.address)
    connection = http.client.HTTPConnection(url.netloc, timeout=60)
    given = {"Host": url.netloc} | ({"Origin": f"http://{url.netloc}"} if method == "POST" else {})
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    path = path if path.startswith("/") else url.path + path
    connection.putrequest(method, path, skip_host=True)
    data = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
    for name, value in (given | {"Content-Length": str(len(data))}).items():
        connection.putheader(name, value)
    connection.endheaders(data)
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.headers


def unpack(body):
    length = int.from_bytes(body[:4], "little")
    said, at, arrays = json.loads(body[4 : 4 + length]), 4 + length, {}
    for name, size in said["arrays"].items():
        arrays[name] = body[at : at + size]
        at += -(-size // 4) * 4
    return said, arrays


def test_only_the_page_itself_is_answered(page):
    host = urlsplit(page.address).netloc
    status, body, headers = ask(page, "", "GET")
    assert status == 200 and b"dvis explore" in body
    assert "default-src 'none'" in headers["Content-Security-Policy"] and headers["Cache-Control"] == "no-store"
    assert ask(page, "start")[0] == 200
    assert ask(page, "/wrong/start")[0] == 404 and ask(page, "/", "GET")[0] == 404
    refused = [
        ask(page, "", "GET", Host="evil.example"),
        ask(page, "start", Host=f"evil.example:{host.partition(':')[2]}"),
        ask(page, "start", Origin="http://evil.example"),
        ask(page, "start", Origin="null"),
        ask(page, "", "GET", Sec_Fetch_Site="cross-site"),
    ]
    assert [status for status, *_ in refused] == [403] * 5
    url = urlsplit(page.address)
    connection = http.client.HTTPConnection(url.netloc)
    connection.request("POST", url.path + "start", b"{}")  # without Origin
    assert connection.getresponse().status == 403


def test_files_outside_of_the_page_are_not_sent(page):
    for path in ("../server.py", "..%2fserver.py", "%2e%2e/server.py", "../../../setup.py"):
        assert ask(page, path, "GET")[0] in (403, 404)


def test_label_map_proposals_and_objects_arrive(page, explorer):
    said, arrays = unpack(ask(page, "open", body={"image": 0})[1])
    labels = np.frombuffer(arrays["labels"], np.float32).reshape(said["map"])
    assert np.array_equal(labels, explorer.label_map(explorer.view(0)))
    values = {row["key"]: row["value"] for row in explorer.start()["controls"]}
    asked = {"image": 0, "thresholds": values}
    said, arrays = unpack(ask(page, "group", body=asked)[1])
    grouping = explorer.group(explorer.view(0), values)
    x0, y0, x1, y1 = said["boxes"][0]
    bits = np.unpackbits(np.frombuffer(arrays["bits"], np.uint8))[: (y1 - y0) * (x1 - x0)].reshape(y1 - y0, x1 - x0)
    assert np.array_equal(bits, grouping.masks[0, y0:y1, x0:x1]) and len(said["scores"]) == len(grouping)
    said, arrays = unpack(ask(page, "find", body=asked)[1])
    assert len(said["scores"]) == len(said["boxes"]) == len(said["colors"]) > 2 and said["truth"]["ap"][1] > 50
    assert unpack(ask(page, "explain", body=asked | {"number": 0})[1])[0]["classes"]
    assert json.loads(ask(page, "histogram", body=asked)[1])["curves"]
    assert ask(page, "picture", body=asked)[1].startswith(b"\x89PNG")


WRONG = [("open", {"image": 99}), ("open", {"image": -1}), ("open", {}), ("open", []), ("open", b"{")]
WRONG += [("open", {"image": 0, "center": ["a", 1]}), ("group", {"image": 0})]
WRONG += [("group", {"image": 0, "thresholds": {"MODEL.WEIGHTS": "x"}})]


@pytest.mark.parametrize("name, body", WRONG)
def test_a_wrong_question_is_said_to_be_one(page, name, body):
    status, answer, _ = ask(page, name, body=body)
    assert status == 400 and json.loads(answer)["error"]


def test_a_dropped_image_is_opened_and_another_file_is_refused(page, drawn, explorer):
    status, body, _ = ask(page, "drop?name=..%2F..%2Fa.png", body=(drawn / "5.png").read_bytes())
    assert status == 200 and json.loads(body) == {"image": 2, "name": "a.png"}
    assert ask(page, "open", body={"image": 2})[0] == 200
    status, body, _ = ask(page, "drop?name=text.png", body=b"no image")
    assert status == 400 and "text.png" in json.loads(body)["error"]


def test_the_program_says_what_is_wrong(drawn, tmp_path):
    def run(*args):
        return CliRunner().invoke(main, ["explore", *map(str, args)])

    for args, what in (
        (["no_such_model"], "no_such_model"),
        (["shapes", tmp_path / "none.png"], "none.png"),
        (["nuclei", drawn / "drawn.json"], "knows the classes nucleus"),
    ):
        result = run(*args)
        assert result.exit_code == 2 and what in result.stderr and "To do: " in result.stderr
