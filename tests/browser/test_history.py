"""The Kontext History tab as an artist uses it, in a real browser."""

import json
import re
import time
import zipfile

import numpy as np
import pytest
import torch
from history_tab import (
    ATTACK,
    PATIENCE,
    ROWS,
    RUN,
    SELECT,
    STATUS,
    WORDS,
    drop_picture,
    expect_turns,
    load_template,
    node,
    open_tab,
    press,
    row,
    show,
    widget,
)
from PIL import Image

from batch.comfyui import CPU
from kontext_core.sessions import Made, Result
from tools import frontend
from tools.browser import Page
from tools.server import Server

# The whole story, as one of several users of a server of its own, which is restarted


def begin_as_user(page, server, name):
    """Become a new user, who has seen the tutorial; returns the user's id."""
    user = json.loads(server.ask("/users", {"username": name}))
    server.ask("/settings", {"Comfy.TutorialCompleted": True}, **{"Comfy-User": user})
    page.call("Page.addScriptToEvaluateOnNewDocument", source=f"localStorage['Comfy.userId'] = '{user}'")
    return user


def come_in(page, server):
    page.open(server.url)
    page.wait_for_workflow(PATIENCE)
    load_template(page)
    page.wait_for(f"!!{node('KontextSampler')}")
    page.evaluate(f"{widget('KontextSampler', 'steps')}.value = 2")
    open_tab(page)


def edit(page, instruction):
    page.evaluate(f"{widget('PrimitiveStringMultiline', 'value')}.value = {json.dumps(instruction)}")
    page.click(RUN)


def mark_2_and_compare_it_with_3(page):
    page.evaluate(f"{row(2)}.focus()")
    press(page, "c")
    page.evaluate(f"{row(3)}.focus()")
    press(page, "Enter")  # compare 3 with the marked 2
    options = "[...document.querySelectorAll('.kh-viewer option')].map((option) => option.textContent)"
    assert page.evaluate(options) == ["turn 2, marked", "turn 1, before", "turn 0, the first picture"]
    page.wait_for("[...document.querySelectorAll('.kh-viewer img')].every((image) => image.naturalWidth === 128)")
    press(page, "Escape")
    page.wait_for("!document.querySelector('.kh-viewer')")


def expect_thumbnails_of(page, base, user):
    """The rows show the user's own pictures, which nobody gets without the user's header."""
    images = "[...document.querySelectorAll('.kh-row img')]"
    page.wait_for(f"{images}.every((image) => image.src.startsWith('blob:') && image.naturalWidth === 128)")
    (folder,) = (base / "user" / "__kontext" / "sessions").iterdir()
    assert folder.name == user
    address = f"'/kontext/sessions/turns/' + {ROWS}[0].dataset.turn + '/thumbnail'"
    assert page.evaluate(f"fetch({address}).then((answer) => answer.status)") == 401


def test_type_run_run_go_back_branch_compare_undo_reload_restart(tmp_path):
    arguments = (*CPU, "--multi-user", "--disable-api-nodes", *frontend.arguments())
    with Page() as page:
        with Server(tmp_path, arguments=arguments) as server:
            user = begin_as_user(page, server, "ann")
            come_in(page, server)
            assert page.evaluate(STATUS) == WORDS["en"]["empty"]
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
            mark_2_and_compare_it_with_3(page)
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
            expect_thumbnails_of(page, tmp_path, user)
            page.evaluate(f"{widget('KontextSampler', 'steps')}.value = 1000")
            edit(page, "make the star red")  # the server stops during this run
            page.wait_for(f"{STATUS}.startsWith('{WORDS['en']['running']}')", seconds=PATIENCE)
        page.wait_for(f"{STATUS}.startsWith({json.dumps(WORDS['en']['noAnswer'].split('{')[0])})")
        with Server(tmp_path, server.port, arguments) as server:
            page.wait_for(f"!{STATUS}")  # the open panel goes on by itself
            press(page, "PageUp", alt=True)  # undo
            expect_turns(page, [0, 1, 2, 3], 1)
            press(page, "PageDown", alt=True)  # redo
            expect_turns(page, [0, 1, 2, 3], 2)
            come_in(page, server)
            expect_turns(page, [0, 1, 2, 3], 2)
            assert page.evaluate(f"!!{row(3)}.querySelector('[aria-pressed=true]')")
            edit(page, "make the circle red")
            expect_turns(page, [0, 1, 2, 4, 3], 4, seconds=PATIENCE)


# One thing at a time, on the server that other tests use


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


def focused(page):
    return page.evaluate("document.activeElement.ariaLabel")


def test_keys_walk_the_tree_and_screen_readers_get_it(page, tree):
    page.evaluate(f"{row(4)}.focus()")
    for key, number in (("Home", 0), ("ArrowRight", 1), ("ArrowDown", 2), ("ArrowLeft", 1), ("End", 4), ("ArrowUp", 3)):
        press(page, key)
        assert re.match(f"Turn {number}\\b", focused(page))
    press(page, " ")
    expect_turns(page, [0, 1, 2, 3, 4], 3)
    assert focused(page) == "Turn 3, make it blue, the next run continues from here"
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


@pytest.fixture
def storage(page, tree):
    """The section of deleted turns and of the limit, which is open in this test."""
    section, limit = "document.querySelector('.kh-storage')", tree.plan().limit
    page.evaluate(f"{section}.parentElement.open = true")
    page.wait_for(f"!!{section}.querySelector('input')")
    yield section
    tree.set_limit(limit)
    page.evaluate(f"{section}.parentElement.open = false")


def test_a_deletion_is_undone_at_once_or_later(page, tree, storage):
    page.evaluate(f"{row(1)}.focus()")
    press(page, "Delete")
    expect_turns(page, [0, 4], 4)
    page.click("document.querySelector('.kh-undo button')")
    expect_turns(page, [0, 1, 2, 3, 4], 4)
    page.evaluate(f"{row(3)}.focus()")
    press(page, "Delete")
    expect_turns(page, [0, 1, 2, 4], 4)
    page.click(f"{storage}.querySelector('li button')")
    expect_turns(page, [0, 1, 2, 3, 4], 4)


def choose_entry(page, number, word):
    """Choose an entry of a turn's menu, by the keyboard."""
    page.evaluate(f"{row(number)}.focus()")
    press(page, "ContextMenu")
    entries = "[...document.querySelectorAll('[role=menuitem]')]"
    page.evaluate(f"{entries}.find((each) => each.textContent === {json.dumps(WORDS['en'][word])}).click()")


def test_after_a_deletion_keys_go_on_from_the_pointer(page, tree):
    choose_entry(page, 2, "delete")
    expect_turns(page, [0, 1, 3, 4], 4)
    assert re.match("Turn 4\\b", focused(page))
    page.evaluate(f"{row(1)}.focus()")
    press(page, "Delete")
    expect_turns(page, [0, 4], 4)
    assert re.match("Turn 4\\b", focused(page))
    press(page, "ArrowUp")
    assert re.match("Turn 0\\b", focused(page))


def tool(word):
    return f"document.querySelector('.kh-tools [aria-label=\"{WORDS['en'][word]}\"]')"


def test_a_session_is_deleted_and_restored(page, tree, another):
    page.evaluate(f"{widget('KontextSession', 'session')}.value = 'another'")  # the graph's session comes next
    said = WORDS["en"]["deletedSession"].replace("{name}", tree.session(tree.shown).name)
    page.click(tool("deleteSession"))
    page.wait_for(f"{SELECT}.value === '{another.id}'")
    assert page.evaluate("document.querySelector('.kh-undo span').textContent") == said
    page.click("document.querySelector('.kh-undo button')")
    expect_turns(page, [0, 1, 2, 3, 4], 4)
    assert page.evaluate(f"{SELECT}.value") == tree.shown


def test_tools_move_the_pointer(page, tree):
    for word, pointer in (("undo", 0), ("redo", 4), ("nextSibling", 1)):
        page.click(tool(word))
        expect_turns(page, [0, 1, 2, 3, 4], pointer)


def click_in_dialog(page, name):
    page.click(
        f"[...document.querySelectorAll('[role=dialog] button')].find((each) => each.textContent.trim() === '{name}')"
    )
    page.wait_for("!document.querySelector('[role=dialog]')")


def test_a_clean_up_says_what_it_frees_and_asks(page, tree, storage):
    pixels, mask, latent = np.zeros((48, 64, 3), np.uint8), np.zeros((48, 64), np.uint8), torch.zeros(16, 6, 8)
    (turn,) = tree.add(tree.ids[4], [Result(pixels, mask, latent)], Made("with a latent"))
    tree.delete_turn(tree.ids[3])
    page.evaluate(f"{storage}.querySelector('input').select()")
    page.call("Input.insertText", text="0.000000001")  # GB
    page.evaluate("document.activeElement.blur()")
    shown = f"[...{storage}.querySelectorAll('ul:last-of-type li')].map((line) => line.textContent)"
    page.wait_for(f"{shown}.length === 2")  # what was deleted, and the latent
    assert tree.plan().limit == 1
    page.click(f"{storage}.querySelector(':scope > button')")
    asked = page.wait_for("document.querySelector('[role=dialog]').textContent")
    assert all(line in asked for line in page.evaluate(shown))
    click_in_dialog(page, "Cancel")
    assert tree.plan().deleted and tree.plan().latents == (turn.id,)
    page.click(f"{storage}.querySelector(':scope > button')")
    click_in_dialog(page, "Delete")
    page.wait_for(f"{storage}.textContent.includes({json.dumps(WORDS['en']['nothingToFree'])})")
    assert not tree.plan().freed and tree.latent(tree.turn(turn.id)) is None


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


@pytest.fixture
def exported(page, tree, tmp_path):
    """`exported(word, ending)`: the file that an entry of turn 3's menu saves."""

    def export(word, ending):
        page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        choose_entry(page, 3, word)
        deadline = time.monotonic() + PATIENCE
        while not (found := list(tmp_path.glob(f"*.{ending}"))) and time.monotonic() < deadline:
            time.sleep(0.1)
        return found[0]

    return export


def test_a_path_is_saved_as_numbered_pictures(exported):
    """The archive holds the path from the first picture, in order, with the stored pixels."""
    with zipfile.ZipFile(exported("exportFiles", "zip")) as archive:
        names = archive.namelist()
        assert names == sorted(names)
        assert [np.asarray(Image.open(archive.open(name)))[0, 0, 0] for name in names] == [40, 50, 150]


def test_a_path_is_saved_as_one_strip(exported):
    strip = np.asarray(Image.open(exported("exportStrip", "png")))
    step = round(64 * 256 / 48) + 12  # px: a picture, 256 px high, and a gap
    assert strip.shape[1] == 12 + 3 * step
    assert [strip[100, 100 + place * step, 0] for place in range(3)] == [40, 50, 150]


def test_a_strip_is_as_wide_as_its_pictures(page):
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


def test_a_dropped_picture_begins_a_session(page, tree):
    before = page.evaluate("app.graph.nodes.length")
    drop_picture(page)
    expect_turns(page, [0], 0)
    assert page.evaluate(f"{widget('KontextSession', 'session')}.value") == "my cat"
    assert page.evaluate("app.graph.nodes.length") == before  # not loaded as a workflow
    turn = tree.turns(tree.find("my cat").id)[0]
    assert (turn.width, turn.height) == (40, 30)
    tree.delete_session(turn.session)


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
    page.evaluate("window.drawn = 0")
    tree.move(ids[299])
    page.wait_for(f"!!document.querySelector('[data-turn=\"{ids[299]}\"].kh-here')")
    assert page.evaluate("window.drawn") < 20  # two rows: those of the pointer, before and after
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
