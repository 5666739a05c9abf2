"""Browser ring: the real frontend in a real, headless browser. Skipped without COMFYUI_PATH."""

import os

import numpy as np
import pytest
from history_tab import ATTACK, SELECT, expect_turns, load_template, node, open_tab, show

from kontext_core.sessions import Made, Result, Store
from tools.browser import Page
from tools.thumbnails import paint_mask

collect_ignore_glob = [] if "COMFYUI_PATH" in os.environ else ["test_*.py"]

NOISE = (  # errors that the host's own frontend writes to the console of a fresh installation
    "Failed to load resource",
    "ComfyApp graph accessed before initialization",
    "Connecting to 'https://huggingface.co",
    "Fetch API cannot load https://huggingface.co",
    "Blocked attempt to show a 'beforeunload'",  # Chromium's, when a page with unsaved changes is left
    "Missing Link ID when unpacking",  # for every blueprint value that is set on its node instead of by a link
)


@pytest.fixture(scope="session")
def browser(server):
    """A page that has loaded ComfyUI from the test server, in English."""
    server.ask("/settings", {"Comfy.TutorialCompleted": True})  # else the first visit opens the templates
    paint_mask(server.base_directory / "input" / "example.png")  # one template asks for a mask in the user's picture
    with Page() as page:
        page.open(server.url)
        page.wait_for_workflow(900)
        yield page


@pytest.fixture
def page(browser):
    """The page for one test, which fails if an error was written to the console."""
    browser.messages.clear()
    yield browser
    errors = [message for message in browser.messages if message.level == "error"]
    assert not [message for message in errors if not message.text.startswith(NOISE)]


@pytest.fixture
def korean(page, server):
    """The page in Korean. It is reloaded afterwards, because texts from the server keep their language."""
    page.evaluate("app.extensionManager.setting.set('Comfy.Locale', 'ko')")
    yield
    page.evaluate("app.extensionManager.setting.set('Comfy.Locale', 'en')")
    page.open(server.url)
    page.wait_for_workflow(900)


@pytest.fixture
def load(page):
    """`load(name)`: a template's graph on the canvas."""

    def load_template(name):
        page.evaluate(
            f"fetch('/api/workflow_templates/kontext-nodes/{name}.json').then((answer) => answer.json())"
            f".then((graph) => app.loadGraphData(graph, true, true, '{name}'))"
        )

    return load_template


@pytest.fixture
def tree(server, page, request):
    """A store with the session of this test: 0 - 1 - 2, 1 - 3 and 0 - 4, the pointer at 4; the tab shows it."""
    store = Store(server.base_directory / "user" / "__kontext" / "sessions" / "default")
    session = store.begin(request.node.name, np.full((48, 64, 3), 40, np.uint8))
    ids = [session.pointer]
    for parent, text in ((0, "make it red"), (1, ATTACK), (1, "make it blue"), (0, "make it green")):
        number = len(ids)
        settings = {
            "18": {"type": "PrimitiveStringMultiline", "inputs": {"value": text}},
            "11": {"type": "KontextSampler", "inputs": {"seed": number, "steps": 3}},
            "99": {"type": "NoSuchNode", "inputs": {"value": 1}},
        }
        pixels = np.full((48, 64, 3), 50 * number, np.uint8)
        result = Result(pixels, np.full((48, 64), 255, np.uint8))
        ids.append(store.add(ids[parent], [result], Made(text, str(number), settings, "embedded"))[0].id)
    load_template(page)
    page.wait_for(f"!!{node('KontextSession')}")
    open_tab(page)
    show(page, session.id)
    expect_turns(page, [0, 1, 2, 3, 4], 4)
    store.ids, store.shown = ids, session.id
    yield store
    store.delete_session(session.id)


@pytest.fixture
def another(page, tree):
    """A second session, which the panel lists; its picture is large enough for an edit."""
    session = tree.begin("another", np.zeros((64, 64, 3), np.uint8))
    page.wait_for(f"!![...{SELECT}.options].find((option) => option.value === '{session.id}')")
    yield session
    tree.delete_session(session.id)


@pytest.fixture
def traffic(page):
    """The panel's requests and pictures in the page.

    `sent`: the requests. `holds(path, answer)`: whether an answer waits until `release()`; `held`: how many did.
    `made`: the paths of all blob URLs; `living`: those that are not revoked.
    """
    page.evaluate(
        """(() => {
            const { fetchApi } = app.api;
            const { createObjectURL, revokeObjectURL } = URL;
            const released = new Promise((done) => (window.release = done));
            Object.assign(window, { sent: [], holds: () => false, held: 0, made: [], living: new Map() });
            app.api.fetchApi = async (path, options) => {
                const ours = path.startsWith('/kontext/sessions');
                if (ours) sent.push(`${options?.method ?? 'GET'} ${path}`);
                const answer = await fetchApi.call(app.api, path, options);
                answer.blob = async () => Object.assign(await Response.prototype.blob.call(answer), { path });
                if (ours && (await holds(path, answer.clone()))) await (held++, released);
                return answer;
            };
            URL.createObjectURL = (blob) => {
                const url = createObjectURL(blob);
                made.push(blob.path);
                living.set(url, blob.path);
                return url;
            };
            URL.revokeObjectURL = (url) => {
                revokeObjectURL(url);
                living.delete(url);
            };
            window.endTraffic = () => {
                release();
                delete app.api.fetchApi;
                Object.assign(URL, { createObjectURL, revokeObjectURL });
            };
        })()"""
    )
    yield
    page.evaluate("endTraffic()")
