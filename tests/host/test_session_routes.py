"""Sessions over HTTP: a real server, its routes, its users, and a second process on the same store."""

import io
import json
import os
import urllib.error
import urllib.request
import zipfile
from urllib.parse import quote, urlencode

import numpy as np
import pytest
from PIL import Image

from batch import ROOT, graphs
from batch.comfyui import CPU
from batch.events import ExecutionFailed
from kontext_core.sessions import Made, Result, Store
from tools import Failure
from tools.client import Client
from tools.server import Server

TEMPLATE = ROOT / "workflows" / "Turn after turn.json"
INSTRUCTIONS = (
    "make the circle blue",
    "remove the star",
    "make the T green",
    "make the circle red",
    "add a blue star",
    "make the T purple",
    "remove the circle",
    "make the T red",
)
WORKFLOW = {"nodes": [], "links": [], "version": 0.4}


# The server


def test_the_template_eight_times_with_the_pointer_moved_in_between(server, client):
    """As an artist would: eight runs, of which the fifth continues from the second turn."""
    prompt = graphs.to_prompt(json.loads(TEMPLATE.read_text(encoding="utf-8")))
    prompt = graphs.with_input(prompt, "KontextSampler", "steps", 4)
    prompt = graphs.with_input(prompt, "KontextSession", "session", "eight turns")
    for number, instruction in enumerate(INSTRUCTIONS):
        if number == 4:
            second = turns_of(client, "eight turns")[2]
            ask(server, "POST", f"/turns/{second['id']}/pointer")
        client.run(graphs.with_input(prompt, "PrimitiveStringMultiline", "value", instruction))
    turns = turns_of(client, "eight turns")
    numbers = {turn["id"]: turn["number"] for turn in turns}
    assert [(turn["instruction"]) for turn in turns[1:]] == list(INSTRUCTIONS)
    assert [numbers.get(turn["parent"]) for turn in turns] == [None, 0, 1, 2, 3, 2, 5, 6, 7]
    pictures = {turn["id"]: picture_of(server, turn["id"]) for turn in turns}
    for turn in turns[1:]:
        parent, own = pictures[turn["parent"]], pictures[turn["id"]]
        assert turn["is_global"] or (own == parent).all(-1).mean() >= turn["kept"] > 0.3


def turns_of(client, name):
    (session,) = [each for each in client.get("/kontext/sessions")["sessions"] if each["name"] == name]
    return client.get("/kontext/sessions", session=session["id"])["turns"]


def inverting(session):
    """A graph that begins a session or continues it, and inverts the picture."""
    return {
        "picture": graphs.node("KontextExample", picture="scene"),
        "open": graphs.node(
            "KontextSession", session=session, continue_from="the pointer", first_picture=["picture", 0]
        ),
        "edit": graphs.node("ImageInvert", image=["open", 0]),
        "save": graphs.node(
            "KontextSaveTurn", session=["open", 3], instruction="invert", keep=False, image=["edit", 0]
        ),
    }


def test_the_file_of_every_turn_holds_the_workflow(server, client):
    queue(server, client, inverting("with the workflow"))
    turns = turns_of(client, "with the workflow")
    assert [turn["number"] for turn in turns] == [0, 1]
    for turn in turns:
        with Image.open(io.BytesIO(ask(server, "GET", f"/turns/{turn['id']}/picture")[1])) as file:
            assert json.loads(file.text["workflow"]) == WORKFLOW
            assert json.loads(file.text["prompt"])["open"]["inputs"]["session"] == "with the workflow"


def ask(server, method, path, body=None, user=None, content_type="application/json"):
    """(status, the answer's bytes)."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else None
    headers = {"Content-Type": content_type} if content is not None else {}
    request = urllib.request.Request(f"{server.url}/kontext/sessions{path}", content, headers, method=method)
    if user:
        request.add_header("comfy-user", user)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def picture_of(server, turn):
    return np.asarray(Image.open(io.BytesIO(ask(server, "GET", f"/turns/{turn}/picture")[1])))


def png(seed=0, mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), np.uint8)
    image = Image.fromarray(pixels)
    grey = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    file = io.BytesIO()
    (grey if mode == "I;16" else image.convert(mode)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def begun(server, request):
    """The id of a session of four turns, 0 - 1 - 2 and 0 - 3, and the ids of the turns; made by another process."""
    session = json.loads(ask(server, "POST", f"?name={request.node.name}", png(), content_type="image/png")[1])[
        "session"
    ]
    store = Store(server.base_directory / "user" / "__kontext" / "sessions" / "default")
    ids = [store.session(session).pointer]
    for parent, number in ((0, 1), (1, 2), (0, 3)):
        pixels = np.full((24, 32, 3), number, np.uint8)
        made = Made(f"make it {number}", str(number), {"4": {"type": "KSampler", "inputs": {"seed": number}}})
        ids.append(store.add(ids[parent], [Result(pixels, pixels[..., 0])], made)[0].id)
    return session, ids


def state(server, session):
    return json.loads(ask(server, "GET", f"?session={session}")[1])


def test_the_panel_gets_the_tree(server, begun):
    session, ids = begun
    answer = state(server, session)
    assert [turn["id"] for turn in answer["turns"]] == ids
    assert answer["session"]["pointer"] == ids[3]
    assert "settings" not in answer["turns"][1]
    assert json.loads(ask(server, "GET", f"/turns/{ids[1]}")[1])["settings"]["4"]["inputs"] == {"seed": 1}
    unchanged = json.loads(ask(server, "GET", f"?session={session}&since={answer['revision']}")[1])
    assert unchanged == {"revision": answer["revision"]}
    with Image.open(io.BytesIO(ask(server, "GET", f"/turns/{ids[0]}/thumbnail")[1])) as small:
        assert (small.format, small.size) == ("JPEG", (32, 24))


def test_the_panel_changes_the_tree(server, begun):
    session, ids = begun
    ask(server, "POST", f"/turns/{ids[2]}/pointer")
    assert json.loads(ask(server, "POST", f"/{session}/step", {"how": "undo"})[1])["turn"] == ids[1]
    ask(server, "PATCH", f"/turns/{ids[1]}", {"star": True, "note": "<i>good</i>"})
    assert ask(server, "PATCH", f"/{session}", {"name": "renamed"})[0] == 200
    deletion = json.loads(ask(server, "DELETE", f"/turns/{ids[1]}")[1])["deletion"]
    answer = state(server, session)
    assert [turn["number"] for turn in answer["turns"]] == [0, 3]
    assert answer["session"] | {"created": 0} == {
        "id": session,
        "name": "renamed",
        "created": 0,
        "pointer": ids[0],
        "turns": 2,
    }
    ask(server, "POST", f"/restore/{deletion}")
    turn = state(server, session)["turns"][1]
    assert (turn["star"], turn["note"]) == (True, "<i>good</i>")


def test_a_clean_up_removes_only_what_was_shown(server, begun):
    session, ids = begun
    shown = json.loads(ask(server, "DELETE", f"/turns/{ids[2]}")[1])["deletion"]
    later = json.loads(ask(server, "DELETE", f"/turns/{ids[3]}")[1])["deletion"]
    plan = json.loads(ask(server, "GET", "/plan")[1])
    sizes = {each["id"]: each["size"] for each in plan["deleted"]}
    assert plan["freed"] >= sizes[shown] + sizes[later] > 0
    freed = json.loads(ask(server, "POST", "/clean", {"deleted": [shown], "unnamed": False, "latents": []})[1])["freed"]
    assert freed == sizes[shown]
    assert ask(server, "POST", f"/restore/{shown}")[0] == 400
    assert ask(server, "POST", f"/restore/{later}")[0] == 200
    ask(server, "DELETE", f"/{session}")


def test_a_path_is_exported_whole_and_in_order(server, begun):
    session, ids = begun
    with zipfile.ZipFile(io.BytesIO(ask(server, "GET", f"/turns/{ids[2]}/path.zip")[1])) as archive:
        assert archive.namelist() == ["000_first_picture.png", "001_make_it_1.png", "002_make_it_2.png"]
        assert archive.read("000_first_picture.png") == ask(server, "GET", f"/turns/{ids[0]}/picture")[1]


def test_a_lost_picture_is_marked_and_the_rest_is_served(server, begun):
    session, ids = begun
    files = server.base_directory / "user" / "__kontext" / "sessions" / "default" / "pictures" / session
    (files / f"{ids[2]}.png").unlink()
    assert [turn["missing"] for turn in state(server, session)["turns"]] == [False, False, True, False]
    assert ask(server, "GET", f"/turns/{ids[2]}/picture")[0] == 404
    assert ask(server, "GET", f"/turns/{ids[2]}/path.zip")[0] == 400
    assert ask(server, "GET", f"/turns/{ids[1]}/picture")[0] == 200


REFUSED = {  # method, path, body, content type, status
    "no id": ("GET", "/turns/x/picture", None, "", 400),
    "an unknown id": ("GET", f"/turns/{'0' * 32}/picture", None, "", 400),
    "a path": ("GET", "/turns/..%2F..%2F..%2Fsettings/picture", None, "", 400),
    "a pattern": ("GET", f"/turns/{'%25' * 32}", None, "", 400),
    "no picture": ("POST", "?name=a", b"rubbish", "image/png", 400),
    "a page": ("POST", "?name=a", b"<svg/>", "image/svg+xml", 400),
    "a form": ("POST", "?name=a", b"a=b", "application/x-www-form-urlencoded", 415),
    "no name": ("POST", "?name=", png(), "image/png", 400),
    "a text as JSON": ("POST", "/limit", b'{"bytes": 1}', "text/plain", 415),
    "no JSON": ("POST", "/limit", b"{", "application/json", 400),
    "no object": ("POST", "/limit", b"[1]", "application/json", 400),
    "a wrong type": ("POST", "/limit", b'{"bytes": "all"}', "application/json", 400),
    "a step that is none": ("POST", f"/{'0' * 32}/step", b'{"how": 1}', "application/json", 400),
}


def test_what_the_server_refuses_is_told_in_its_words(server):
    with pytest.raises(Failure, match="POST /kontext/sessions/restore/x is answered with 4..: ..."):
        server.ask("/kontext/sessions/restore/x", {})


@pytest.mark.parametrize(("method", "path", "body", "content_type", "status"), REFUSED.values(), ids=REFUSED)
def test_what_the_panel_would_not_send_is_refused(server, method, path, body, content_type, status):
    before = state(server, "")["revision"]
    assert ask(server, method, path, body, content_type=content_type)[0] == status
    assert state(server, "")["revision"] == before


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "I;16"])
def test_a_picture_of_any_kind_begins_a_session(server, mode):
    answer = json.loads(ask(server, "POST", "?name=kind", png(mode=mode), content_type="image/png")[1])
    (turn,) = state(server, answer["session"])["turns"]
    grey = np.repeat(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)[..., :1], 3, axis=-1)
    stored = picture_of(server, turn["id"])
    assert stored.shape == (24, 32, 3)
    if mode in ("RGB", "RGBA"):
        np.testing.assert_array_equal(stored[..., 0], grey[..., 0])
    if mode == "I;16":
        np.testing.assert_array_equal(stored, grey)


def test_a_taken_name_gets_a_number(server, begun):
    name = state(server, begun[0])["session"]["name"]
    answer = json.loads(ask(server, "POST", f"?name={name}", png(1), content_type="image/png")[1])
    assert answer["name"] == f"{name} (2)"


# Users


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A server in multi-user mode, and the ids of two users."""
    with Server(tmp_path_factory.mktemp("shared"), arguments=(*CPU, "--multi-user", "--disable-api-nodes")) as server:
        yield server, [new_user(server, name) for name in ("ann", "홍길동")]


def new_user(server, name):
    body = json.dumps({"username": name}).encode()
    request = urllib.request.Request(f"{server.url}/users", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read())


def queue(server, client, prompt, user=None):
    """Runs a prompt as a user's browser does, with the workflow and with the header that names the user."""
    extra = {"kontext_user": "somebody", "extra_pnginfo": {"workflow": WORKFLOW}}
    body = json.dumps({"prompt": prompt, "client_id": client.id, "extra_data": extra}).encode()
    headers = {"Content-Type": "application/json"} | ({"comfy-user": user} if user else {})
    with urllib.request.urlopen(urllib.request.Request(f"{server.url}/prompt", body, headers)) as answer:
        prompt_id = json.loads(answer.read())["prompt_id"]
    for event in client.events(prompt_id):
        if event.type == "execution_error":
            raise ExecutionFailed(event.data)


def test_users_have_sessions_of_their_own(shared):
    server, (ann, bob) = shared
    prompt = inverting("mine")
    with Client(server.url) as client:
        for user in (ann, bob, ann):
            queue(server, client, prompt, user)
        with pytest.raises(ExecutionFailed, match="this run came from none"):
            queue(server, client, prompt)
    seen = {user: json.loads(ask(server, "GET", "", user=user)[1])["sessions"] for user in (ann, bob)}
    assert {user: [(each["name"], each["turns"]) for each in sessions] for user, sessions in seen.items()} == {
        ann: [("mine", 3)],
        bob: [("mine", 2)],
    }
    other = seen[ann][0]["pointer"]
    for method, path, body in (
        ("GET", f"/turns/{other}/picture", None),
        ("GET", f"/turns/{other}", None),
        ("PATCH", f"/turns/{other}", {"star": True}),
        ("DELETE", f"/{seen[ann][0]['id']}", None),
    ):
        assert ask(server, method, path, body, user=bob)[0] == 400
    assert ask(server, "GET", f"/turns/{other}/picture", user=ann)[0] == 200


@pytest.mark.parametrize("user", [None, "nobody", "__kontext", "../ann"])
def test_an_unknown_user_is_turned_away(shared, user):
    server, _ = shared
    assert ask(server, "GET", "", user=user)[0] == 401
    assert ask(server, "POST", "?name=a", png(), user=user, content_type="image/png")[0] == 401


def viewed(folder, path):
    parent, name = os.path.split(path)
    return f"/view?{urlencode({'type': folder, 'subfolder': parent, 'filename': name})}"


SERVED = {  # ComfyUI's addresses of files: the folder, and the address of a path from it
    "input": ("input", lambda path: viewed("input", path)),
    "output": ("output", lambda path: viewed("output", path)),
    "temp": ("temp", lambda path: viewed("temp", path)),
    "a user's file": ("user/default", lambda path: f"/userdata/{quote(path, safe='')}"),
    "a user's list": ("user/default", lambda path: f"/userdata?{urlencode({'dir': os.path.dirname(path)})}"),
    "a user's tree": ("user/default", lambda path: f"/v2/userdata?{urlencode({'path': os.path.dirname(path)})}"),
}


@pytest.mark.parametrize(("folder", "address"), SERVED.values(), ids=SERVED)
def test_a_turn_is_in_no_folder_that_comfyui_serves(server, request, folder, address):
    """Wherever the store lies: the addresses that give a file of the folder itself give no turn."""
    body = ask(server, "POST", f"?name={quote(request.node.name)}", png(), content_type="image/png")[1]
    (turn,) = state(server, json.loads(body)["session"])["turns"]
    (stored,) = server.base_directory.rglob(f"{turn['id']}.png")
    folder = server.base_directory / folder
    own = folder / "own" / "own.png"
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_bytes(png())
    for spelled in (str, lambda path: os.path.relpath(path, folder)):
        assert status(server, address(spelled(own))) == 200
        assert status(server, address(spelled(stored))) in (400, 403, 404)


def status(server, path):
    try:
        with urllib.request.urlopen(server.url + path) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_two_servers_share_a_store(server, begun, tmp_path_factory):
    """The second continues from the first one's turns, and the first sees the second one's."""
    session, ids = begun
    name = state(server, session)["session"]["name"]
    base = tmp_path_factory.mktemp("second")
    (base / "user").symlink_to(server.base_directory / "user", target_is_directory=True)
    prompt = {
        "open": graphs.node("KontextSession", session=name, continue_from="the pointer"),
        "edit": graphs.node("ImageInvert", image=["open", 0]),
        "save": graphs.node(
            "KontextSaveTurn", session=["open", 3], instruction="invert", keep=False, image=["edit", 0]
        ),
    }
    with Server(base, arguments=(*CPU, "--disable-api-nodes")) as second, Client(second.url) as client:
        client.run(prompt)
        assert [turn["number"] for turn in state(second, session)["turns"]] == [0, 1, 2, 3, 4]
    turns = state(server, session)["turns"]
    assert turns[4]["parent"] == ids[3]
    with Client(server.url) as client:
        client.run(prompt)
    assert state(server, session)["turns"][5]["parent"] == turns[4]["id"]
