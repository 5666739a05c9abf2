"""The Kontext History tab as an artist uses it, in a real browser."""

import json
import os
import re
import time
import urllib.request
import zipfile

import numpy as np
import pytest
from PIL import Image

from batch.comfyui import CPU
from kontext_core.sessions import Made, Result, Store
from tools import ROOT, frontend
from tools.browser import Page
from tools.server import Server

PATIENCE = 900  # s; a run takes seconds, but not on a machine that does much else
RUN = "document.querySelector('[data-testid=queue-button]')"
TAB = "document.querySelector('.%s-tab-button, [data-testid=%s-tab-button]')"  # 1.47, 1.58
ROWS = "[...document.querySelectorAll('.kh-row')]"
WORDS = {
    language: json.loads((ROOT / "locales" / language / "main.json").read_text(encoding="utf-8"))["kontextHistory"]
    for language in ("en", "ko", "ja", "zh")
}
ATTACK = '<img src=x onerror="window.attacked=true"> put a hat on it'


def row(number):
    return f"{ROWS}.find((row) => row.ariaLabel.match(/^\\S+ {number}\\b/))"


def node(kind):
    return f"app.graph.nodes.find((node) => node.type === '{kind}')"


def widget(kind, name):
    return f"{node(kind)}.widgets.find((widget) => widget.name === '{name}')"


def load_template(page):
    page.evaluate(
        "fetch('/api/workflow_templates/kontext-nodes/Turn after turn.json').then((answer) => answer.json())"
        ".then((graph) => app.loadGraphData(graph, true, true, 'Turn after turn'))"
    )


def click_tab(page, tab):
    page.click(TAB % (tab, tab))
    page.wait_for(f"app.extensionManager.sidebarTab.activeSidebarTabId === '{tab}'")


def open_tab(page):
    if not page.evaluate("!!document.querySelector('.kontext-history')"):
        click_tab(page, "kontext-history")
    page.wait_for("!!document.querySelector('.kontext-history .kh-tree')")


def show(page, session):
    select = "document.querySelector('.kontext-history select')"
    page.wait_for(f"[...{select}.options].some((option) => option.value === '{session}')")
    page.evaluate(f"{select}.value = '{session}', {select}.dispatchEvent(new Event('change'))")


def press(page, key, **modifiers):
    bits = {"alt": 1, "ctrl": 2, "shift": 8}
    sent = {"key": key, "code": key, "modifiers": sum(bits[name] for name in modifiers)}
    codes = {"Enter": 13, "Escape": 27, " ": 32, "PageUp": 33, "PageDown": 34, "End": 35, "Home": 36, "Delete": 46}
    codes |= {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
    sent["windowsVirtualKeyCode"] = codes.get(key, ord(key.upper()[0]))
    if len(key) == 1 and not modifiers:
        sent["text"] = key
    page.call("Input.dispatchKeyEvent", type="keyDown", **sent)
    page.call("Input.dispatchKeyEvent", type="keyUp", key=key)


def numbers(page):
    """The turns' numbers from top to bottom, and that of the pointer."""
    return page.evaluate(
        f"[{ROWS}.map((row) => Number(row.querySelector('.kh-facts').textContent.split(' ')[0])),"
        f" {ROWS}.findIndex((row) => row.classList.contains('kh-here'))]"
    )


def expect_turns(page, order, pointer, seconds=60):
    """Wait until the rows have these numbers and the pointer is at this one."""
    wanted = json.dumps([order, order.index(pointer)])
    page.wait_for(
        f"JSON.stringify([{ROWS}.map((row) => Number(row.querySelector('.kh-facts').textContent.split(' ')[0])),"
        f" {ROWS}.findIndex((row) => row.classList.contains('kh-here'))]) === {json.dumps(wanted.replace(' ', ''))}",
        seconds=seconds,
    )


# The whole story, on a server of its own, which is restarted


def quiet(server):
    settings = json.dumps({"Comfy.TutorialCompleted": True}).encode()
    urllib.request.urlopen(urllib.request.Request(f"{server.url}/settings", settings, method="POST")).close()


def come_in(page, server):
    page.open(server.url)
    page.wait_for("window.app?.graph?.nodes?.length", seconds=PATIENCE)
    load_template(page)
    page.wait_for(f"!!{node('KontextSampler')}")
    page.evaluate(f"{widget('KontextSampler', 'steps')}.value = 2")
    open_tab(page)


def edit(page, instruction):
    page.evaluate(f"{widget('PrimitiveStringMultiline', 'value')}.value = {json.dumps(instruction)}")
    page.click(RUN)


def test_type_run_run_go_back_branch_compare_undo_reload_restart(tmp_path):
    arguments = (*CPU, "--disable-api-nodes", *frontend.arguments(os.environ.get(frontend.VARIABLE)))
    with Page() as page:
        with Server(tmp_path, arguments=arguments) as server:
            quiet(server)
            come_in(page, server)
            assert page.evaluate("document.querySelector('.kh-status').textContent") == WORDS["en"]["empty"]
            edit(page, "make the circle blue")
            expect_turns(page, [0, 1], 1, seconds=PATIENCE)
            edit(page, "remove the star")
            expect_turns(page, [0, 1, 2], 2, seconds=PATIENCE)
            page.click(f"{row(1)}.querySelector('.kh-text')")  # back
            expect_turns(page, [0, 1, 2], 1)
            edit(page, "make the T green")  # a branch: the older side goes to the right
            expect_turns(page, [0, 1, 2, 3], 3, seconds=PATIENCE)
            lanes = page.evaluate(f"{ROWS}.map((row) => Number(row.querySelector('circle').getAttribute('cx')))")
            assert lanes[2] > lanes[3] == lanes[1] == lanes[0]
            page.evaluate(f"{row(2)}.focus()")
            press(page, "c")
            page.evaluate(f"{row(3)}.focus()")
            press(page, "Enter")  # compare 3 with the marked 2
            options = "[...document.querySelectorAll('.kh-viewer option')].map((option) => option.textContent)"
            assert page.evaluate(options) == ["turn 2, marked", "turn 1, before", "turn 0, the first picture"]
            page.wait_for(
                "[...document.querySelectorAll('.kh-viewer img')].every((image) => image.naturalWidth === 128)"
            )
            press(page, "Escape")
            page.wait_for("!document.querySelector('.kh-viewer')")
            page.evaluate("document.querySelector('#graph-canvas').focus()")
            press(page, "PageUp", alt=True)  # undo
            expect_turns(page, [0, 1, 2, 3], 1)
            press(page, "PageDown", alt=True)  # redo
            expect_turns(page, [0, 1, 2, 3], 3)
            press(page, "PageDown", alt=True, shift=True)  # next sibling
            expect_turns(page, [0, 1, 2, 3], 2)
            page.evaluate(f"{row(3)}.focus()")
            press(page, "s")
            page.wait_for(f"!!{row(3)}.querySelector('[aria-pressed=true]')")
            come_in(page, server)  # a reload
            expect_turns(page, [0, 1, 2, 3], 2)
        with Server(tmp_path, arguments=arguments) as server:
            come_in(page, server)
            expect_turns(page, [0, 1, 2, 3], 2)
            assert page.evaluate(f"!!{row(3)}.querySelector('[aria-pressed=true]')")
            edit(page, "make the circle red")
            expect_turns(page, [0, 1, 2, 4, 3], 4, seconds=PATIENCE)


# One thing at a time, on the server that other tests use


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


def test_texts_of_users_are_text(page, tree):
    tree.note(tree.ids[1], ATTACK)
    tree.rename(tree.shown, f"{ATTACK} {time.time()}")
    page.wait_for(f"{row(1)}.textContent.includes('onerror')")
    assert page.evaluate(f"{row(2)}.querySelector('.kh-text').textContent") == ATTACK
    page.evaluate(f"{row(2)}.focus()")
    press(page, "Enter")
    page.wait_for("!!document.querySelector('.kh-viewer')")
    press(page, "Escape")
    press(page, "Delete")
    page.wait_for("!document.querySelector('.kh-undo').hidden")
    assert page.evaluate("[window.attacked ?? null, document.querySelectorAll('img[src=x]').length]") == [None, 0]


def test_a_click_goes_on_from_a_turn_in_the_open_graph_too(page, tree):
    page.evaluate(f"{widget('KontextSession', 'continue_from')}.value = 'a turn'")
    page.click(f"{row(3)}.querySelector('.kh-text')")
    expect_turns(page, [0, 1, 2, 3, 4], 3)
    assert tree.session(tree.shown).pointer == tree.ids[3]
    values = f"[{widget('KontextSession', 'session')}.value, {widget('KontextSession', 'continue_from')}.value]"
    assert page.evaluate(values) == [tree.session(tree.shown).name, "the pointer"]
    on_path = f"{ROWS}.map((row) => row.classList.contains('kh-on-path'))"
    assert page.evaluate(on_path) == [True, True, False, True, False]


def test_keys_walk_the_tree_and_screen_readers_get_it(page, tree):
    def focused():
        return page.evaluate("document.activeElement.ariaLabel")

    page.evaluate(f"{row(4)}.focus()")
    for key, number in (("Home", 0), ("ArrowRight", 1), ("ArrowDown", 2), ("ArrowLeft", 1), ("End", 4), ("ArrowUp", 3)):
        press(page, key)
        assert re.match(f"Turn {number}\\b", focused())
    press(page, " ")
    expect_turns(page, [0, 1, 2, 3, 4], 3)
    assert focused() == "Turn 3, make it blue, the next run continues from here"
    facts = (
        f"{ROWS}.map((row) => [row.role ?? row.getAttribute('role'), row.ariaLevel, row.ariaPosInSet, row.ariaSetSize])"
    )
    assert page.evaluate(facts) == [
        ["treeitem", "1", "1", "1"],
        ["treeitem", "2", "1", "2"],
        ["treeitem", "3", "1", "2"],
        ["treeitem", "3", "2", "2"],
        ["treeitem", "2", "2", "2"],
    ]
    buttons = "[...document.querySelectorAll('.kontext-history button')]"
    assert page.evaluate(f"{buttons}.filter((each) => !each.ariaLabel && !each.textContent).length") == 0


def test_a_deletion_is_undone_at_once_or_later(page, tree):
    page.evaluate(f"{row(1)}.focus()")
    press(page, "Delete")
    expect_turns(page, [0, 4], 4)
    page.click("document.querySelector('.kh-undo button')")
    expect_turns(page, [0, 1, 2, 3, 4], 4)
    page.evaluate(f"{row(3)}.focus()")
    press(page, "Delete")
    expect_turns(page, [0, 1, 2, 4], 4)
    page.evaluate("document.querySelector('.kh-storage').parentElement.open = true")
    page.click("document.querySelector('.kh-storage li button')")
    expect_turns(page, [0, 1, 2, 3, 4], 4)
    page.evaluate("document.querySelector('.kh-storage').parentElement.open = false")


def test_instruction_and_seed_go_into_the_open_graph(page, tree):
    page.evaluate(f"{row(3)}.focus()")
    press(page, "u")
    page.wait_for(f"{widget('PrimitiveStringMultiline', 'value')}.value === 'make it blue'")
    values = f"['seed', 'steps'].map((name) => {node('KontextSampler')}.widgets.find((w) => w.name === name).value)"
    assert page.evaluate(values) == [3, 3]
    said = "[...document.querySelectorAll('[role=alert]')].map((each) => each.textContent).join()"
    assert "NoSuchNode" in page.wait_for(said)


def answer(page, text):
    """Type into ComfyUI's prompt dialog and confirm."""
    field = "document.querySelector('[role=dialog] input')"
    page.wait_for(f"!!{field}")
    page.evaluate(f"{field}.focus(), {field}.select()")
    page.call("Input.insertText", text=text)
    press(page, "Enter")
    page.wait_for(f"!{field}")


def test_a_note_and_a_name_are_given_in_the_panel(page, tree):
    page.evaluate(f"{widget('KontextSession', 'session')}.value = {json.dumps(tree.session(tree.shown).name)}")
    page.evaluate(f"{row(3)}.focus()")
    press(page, "n")
    answer(page, ATTACK)
    page.wait_for(f"{row(3)}.textContent.includes('onerror')")
    assert [turn.note for turn in tree.turns(tree.shown)] == ["", "", "", ATTACK, ""]
    page.click(f"document.querySelector('.kontext-history [aria-label=\"{WORDS['en']['rename']}\"]')")
    answer(page, "the red one")
    page.wait_for(f"{widget('KontextSession', 'session')}.value === 'the red one'")
    assert tree.session(tree.shown).name == "the red one"


def test_a_path_is_saved_as_numbered_pictures(page, tree, tmp_path):
    """The archive holds the path from the first picture, in order, with the stored pixels."""
    page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.evaluate(f"{row(3)}.focus()")
    press(page, "ContextMenu")
    entries = "[...document.querySelectorAll('[role=menuitem]')]"
    page.evaluate(f"{entries}.find((each) => each.textContent === {json.dumps(WORDS['en']['exportFiles'])}).click()")
    deadline = time.monotonic() + PATIENCE
    while not (archives := list(tmp_path.glob("*.zip"))) and time.monotonic() < deadline:
        time.sleep(0.1)
    with zipfile.ZipFile(archives[0]) as archive:
        names = archive.namelist()
        assert names == sorted(names)
        assert [np.asarray(Image.open(archive.open(name)))[0, 0, 0] for name in names] == [40, 50, 150]


def test_a_double_click_opens_a_turn_with_a_slider_against_its_parent(page, tree):
    text = f"{row(3)}.querySelector('.kh-text')"
    page.evaluate(
        f"[1, 2].forEach((detail) => {text}.dispatchEvent(new MouseEvent('click', {{ detail, bubbles: true }})))"
    )
    page.wait_for("[...document.querySelectorAll('.kh-viewer img')].every((image) => image.naturalWidth === 64)")
    shown = "document.querySelector('.kh-viewer option').textContent"
    assert page.evaluate(shown) == WORDS["en"]["parent"].replace("{number}", "1")
    cut = "document.querySelector('.kh-stage').style.getPropertyValue('--cut')"
    assert page.evaluate(cut) == "50%"
    press(page, "ArrowRight")
    assert page.evaluate(cut) == "50.5%"
    press(page, "Escape")
    page.wait_for("!document.querySelector('.kh-viewer')")
    assert tree.session(tree.shown).pointer == tree.ids[4]  # not the single click's


def test_what_another_window_did_is_seen_without_an_event(page, tree):
    """This process writes into the store behind the server's back."""
    tree.move(tree.ids[2])
    expect_turns(page, [0, 1, 2, 3, 4], 2)


def drop_picture(page):
    page.evaluate(
        """(async () => {
            const canvas = new OffscreenCanvas(40, 30);
            canvas.getContext('2d').fillRect(0, 0, 40, 30);
            const files = new DataTransfer();
            files.items.add(new File([await canvas.convertToBlob()], 'my cat.png', { type: 'image/png' }));
            const panel = document.querySelector('.kontext-history');
            for (const type of ['dragover', 'drop'])
                panel.dispatchEvent(new DragEvent(type, { dataTransfer: files, bubbles: true, cancelable: true }));
        })()"""
    )


def test_a_dropped_picture_begins_a_session(page, tree):
    before = page.evaluate("app.graph.nodes.length")
    drop_picture(page)
    expect_turns(page, [0], 0)
    assert page.evaluate(f"{widget('KontextSession', 'session')}.value") == "my cat"
    assert page.evaluate("app.graph.nodes.length") == before  # not loaded as a workflow
    turn = tree.turns(tree.find("my cat").id)[0]
    assert (turn.width, turn.height) == (40, 30)
    tree.delete_session(turn.session)


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


OTHERS = {
    "built-in": None,
    "of a pack that clears the element": "root.replaceChildren(made)",
    "of a pack that adds to the element": "root.append(made)",
}


@pytest.fixture(params=OTHERS.values(), ids=OTHERS)
def other_tab(page, request):
    """The id of another tab. Tabs of packs are drawn into one element."""
    if request.param is None:
        yield "workflows"
        return
    page.evaluate(
        "app.extensionManager.registerSidebarTab({ id: 'another-pack', icon: 'pi pi-star', title: 'another pack',"
        " type: 'custom', render(root) { const made = document.createElement('div'); made.className = 'another-pack';"
        f" {request.param}; }} }})"
    )
    yield "another-pack"
    page.evaluate("app.extensionManager.unregisterSidebarTab('another-pack')")


def test_after_another_tab_a_dropped_picture_begins_one_session(page, tree, traffic, other_tab):
    others = {session.id for session in tree.sessions()}
    click_tab(page, other_tab)
    click_tab(page, "kontext-history")
    page.wait_for(f"{ROWS}.length")
    drop_picture(page)
    expect_turns(page, [0], 0)
    for session in tree.sessions():
        if session.id not in others:
            tree.delete_session(session.id)
    assert page.evaluate("sent.filter((each) => each.startsWith('POST /kontext/sessions?')).length") == 1


def test_while_another_tab_is_open_the_panel_asks_for_nothing(page, tree, traffic, other_tab):
    click_tab(page, other_tab)
    page.evaluate("sent.length = 0, app.api.dispatchEvent(new CustomEvent('kontext.sessions', { detail: {} }))")
    time.sleep(7)  # it asks every 3 s
    assert page.evaluate("sent") == []
    assert page.evaluate("document.querySelectorAll('.kontext-history, .kh-tree').length") == 0


def test_a_late_answer_does_not_bring_an_earlier_session_back(page, tree, traffic):
    another = tree.begin("another", np.zeros((8, 8, 3), np.uint8))
    page.wait_for(f"!!document.querySelector('.kontext-history option[value=\"{another.id}\"]')")
    page.evaluate(
        "window.holds = async (path, answer) =>"
        f" path.startsWith('/kontext/sessions?') && (await answer.json()).session?.id === '{tree.shown}'"
    )
    tree.star(tree.ids[1], True)
    page.wait_for("held")
    show(page, another.id)
    page.evaluate("release()")
    expect_turns(page, [0], 0)
    assert page.evaluate("document.querySelector('.kontext-history select').value") == another.id
    tree.delete_session(another.id)


def compare(page, tree):
    """Open turn 3; hold the picture of turn 0, with which it can be compared."""
    page.evaluate(f"window.holds = (path) => path.endsWith('/{tree.ids[0]}/picture')")
    page.evaluate(f"{row(3)}.focus()")
    press(page, "Enter")
    page.wait_for("document.querySelector('.kh-before').naturalWidth === 64")
    choose(page, tree.ids[0])
    page.wait_for("held")


def choose(page, turn):
    select = "document.querySelector('.kh-viewer select')"
    page.evaluate(f"{select}.value = '{turn}', {select}.dispatchEvent(new Event('change'))")


def pictures(kind, turn):
    """How many blob URLs of a turn's picture are in `made` or `living`."""
    return f"[...{kind}.values()].filter((path) => path?.endsWith('/{turn}/picture')).length"


def test_a_late_picture_does_not_replace_the_one_chosen_after_it(page, tree, traffic):
    compare(page, tree)
    choose(page, tree.ids[1])
    page.wait_for(f"{pictures('made', tree.ids[1])} === 2")
    page.evaluate("release()")
    page.wait_for(f"{pictures('made', tree.ids[0])} === 1")
    grey = page.evaluate(
        """(async () => {
            const image = document.querySelector('.kh-before');
            await image.decode();
            const pen = new OffscreenCanvas(64, 48).getContext('2d');
            pen.drawImage(image, 0, 0);
            return pen.getImageData(0, 0, 1, 1).data[0];
        })()"""
    )
    press(page, "Escape")
    assert grey == 50


def test_a_picture_that_comes_after_the_viewer_is_closed_is_freed(page, tree, traffic):
    compare(page, tree)
    press(page, "Escape")
    page.wait_for("!document.querySelector('.kh-viewer')")
    page.evaluate("release()")
    page.wait_for(f"{pictures('made', tree.ids[0])} === 1")
    assert [page.evaluate(pictures("living", turn)) for turn in tree.ids] == [0, 0, 0, 0, 0]


def test_commands_are_in_the_menu_and_keys_are_free(page, tree):
    commands = page.evaluate(
        "app.extensionManager.command.commands.filter(({ id }) => id.startsWith('KontextHistory.'))"
        ".map(({ id, keybinding }) => [id, JSON.stringify(keybinding?.combo ?? null)])"
    )
    bound = [combo for _, combo in commands if combo != "null"]
    assert len(commands) == 6 and len(set(bound)) == len(bound) == 4
    page.evaluate("app.extensionManager.command.execute('KontextHistory.Undo')")
    expect_turns(page, [0, 1, 2, 3, 4], 0)


def test_a_path_becomes_one_strip(page):
    size = page.evaluate(
        """(async () => {
            const { drawStrip } = await import('/extensions/kontext-nodes/history/export.js');
            const pictures = [[64, 48], [30, 60]].map(([width, height]) => {
                const canvas = new OffscreenCanvas(width, height);
                canvas.getContext('2d').fillRect(0, 0, width, height);
                return canvas.transferToImageBitmap();
            });
            const strip = await createImageBitmap(await drawStrip(pictures, ['the first picture', '배경을 빨갛게']));
            return [strip.width, strip.height];
        })()"""
    )
    assert size[0] == round(64 * 256 / 48) + round(30 * 256 / 60) + 3 * 12
    assert size[1] > 256 + 2 * 12


def test_300_turns_are_listed_and_only_those_in_sight_are_fetched(page, tree):
    long = tree.begin("long", np.zeros((8, 8, 3), np.uint8))
    ids = [long.pointer]
    for number in range(300):
        result = Result(np.full((8, 8, 3), number % 256, np.uint8), np.zeros((8, 8), np.uint8))
        parent = ids[-1 if number % 5 else number // 2]
        ids.append(tree.add(parent, [result], Made(f"turn {number}"))[0].id)
    show(page, long.id)
    page.wait_for(f"{ROWS}.length === 301", seconds=PATIENCE)
    fetched = "[...document.querySelectorAll('.kh-row img')].filter((image) => image.src).length"
    page.wait_for(f"{fetched} > 3")
    assert page.evaluate(fetched) < 60
    page.evaluate(
        "window.drawn = 0, new MutationObserver((all) => (window.drawn += all.length)).observe("
        "document.querySelector('.kh-tree'), { childList: true, subtree: true })"
    )
    tree.star(ids[150], True)
    page.wait_for("!!document.querySelector('.kh-row [aria-pressed=true]')")
    assert page.evaluate("window.drawn") < 10  # one row was drawn anew, not 301
    tree.delete_session(long.id)


LANES = {  # parents of turns 0, 1, ...; then (number, lane) from top to bottom
    "a line": ([None, 0, 1, 2], [(0, 0), (1, 0), (2, 0), (3, 0)]),
    "a branch goes on": ([None, 0, 1, 1, 3], [(0, 0), (1, 0), (2, 1), (3, 0), (4, 0)]),
    "a branch of a branch": ([None, 0, 1, 1, 0], [(0, 0), (1, 1), (2, 2), (3, 1), (4, 0)]),
    "three siblings": ([None, 0, 0, 0], [(0, 0), (1, 1), (2, 1), (3, 0)]),
    "nothing": ([], []),
}


@pytest.mark.parametrize(("parents", "expected"), LANES.values(), ids=LANES)
def test_the_newest_child_goes_on_in_its_lane(page, parents, expected):
    turns = json.dumps(
        [
            {"id": str(number), "parent": None if parent is None else str(parent)}
            for number, parent in enumerate(parents)
        ]
    )
    rows = page.evaluate(
        "import('/extensions/kontext-nodes/history/tree.js').then(({ rowsOf }) =>"
        f" rowsOf({turns}).map(({{ turn, lane }}) => [Number(turn.id), lane]))"
    )
    assert [tuple(row) for row in rows] == expected


def test_the_tab_is_in_korean_and_works_with_nodes_2(page, server, tree, korean):
    page.evaluate("app.extensionManager.setting.set('Comfy.VueNodes.Enabled', true)")
    try:
        page.open(server.url)
        page.wait_for("window.app?.graph?.nodes?.length", seconds=PATIENCE)
        load_template(page)
        page.wait_for(f"!!{node('KontextSession')}")
        open_tab(page)
        assert page.wait_for("document.querySelector('.kontext-history h2').textContent") == WORDS["ko"]["title"]
        show(page, tree.shown)
        expect_turns(page, [0, 1, 2, 3, 4], 4)
        assert WORDS["ko"]["firstPicture"] in page.evaluate(f"{ROWS}[0].textContent")
        page.click(f"{ROWS}[2].querySelector('.kh-text')")
        expect_turns(page, [0, 1, 2, 3, 4], 2)
        assert page.evaluate(f"{widget('KontextSession', 'session')}.value") == tree.session(tree.shown).name
        labels = "app.extensionManager.command.commands.find(({ id }) => id === 'KontextHistory.Undo').label"
        assert page.evaluate(f"typeof {labels}") == "string"
    finally:
        page.evaluate("app.extensionManager.setting.set('Comfy.VueNodes.Enabled', false)")
