"""Browser ring: the real frontend in a real, headless browser. Skipped without COMFYUI_PATH."""

import json
import os
import urllib.request

import pytest

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
    settings = json.dumps({"Comfy.TutorialCompleted": True}).encode()  # else the first visit opens the templates
    urllib.request.urlopen(urllib.request.Request(f"{server.url}/settings", settings, method="POST")).close()
    paint_mask(server.base_directory / "input" / "example.png")  # one template asks for a mask in the user's picture
    with Page() as page:
        page.open(server.url)
        page.wait_for("window.app?.graph?.nodes?.length", seconds=900)
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
    page.wait_for("window.app?.graph?.nodes?.length", seconds=900)


@pytest.fixture
def load(page):
    """`load(name)`: a template's graph on the canvas."""

    def load_template(name):
        page.evaluate(
            f"fetch('/api/workflow_templates/kontext-nodes/{name}.json').then((answer) => answer.json())"
            f".then((graph) => app.loadGraphData(graph, true, true, '{name}'))"
        )

    return load_template
