"""The Kontext History tab while something else happens: a run, another window, another tab."""

import json
import time

import pytest
from history_tab import (
    PATIENCE,
    ROWS,
    RUN,
    SELECT,
    STATUS,
    WORDS,
    click_tab,
    drop_picture,
    expect_turns,
    node,
    open_tab,
    press,
    row,
    show,
    widget,
)

from tools.browser import Page

EVENTS_ONLY = "Object.defineProperty(document, 'hidden', { value: true, configurable: true })"  # then it does not poll


@pytest.fixture
def events_only(page):
    """The panel does not poll in this test."""
    page.evaluate(EVENTS_ONLY)
    yield
    page.evaluate("delete document.hidden")


def save_again(page, session):
    """Run a graph without a model, which stores the picture at the session's pointer as a turn."""
    graph = {
        "1": {"class_type": "KontextSession", "inputs": {"session": session, "continue_from": "the pointer"}},
        "2": {
            "class_type": "KontextSaveTurn",
            "inputs": {"session": ["1", 3], "image": ["1", 0], "instruction": "again", "keep": True},
        },
    }
    page.evaluate(f"app.loadApiJson({json.dumps(graph)}, 'again')")
    page.wait_for(f"!!{node('KontextSaveTurn')} && app.graph.nodes.length === 2")
    page.click(RUN)


def test_the_turn_of_a_run_is_shown_at_once(page, tree, another, events_only):
    show(page, another.id)
    expect_turns(page, [0], 0)
    page.evaluate(
        f"window.said = [], new MutationObserver(() => said.push({STATUS}))"
        ".observe(document.querySelector('.kh-status'), { childList: true })"
    )
    save_again(page, tree.session(tree.shown).name)
    expect_turns(page, [0, 1, 2, 3, 4, 5], 5)
    page.wait_for(f"!{STATUS}")
    assert WORDS["en"]["running"] in page.evaluate("said")


def test_a_run_does_not_show_what_another_window_changes(page, tree, another, events_only, server):
    page.evaluate(f"{widget('KontextSession', 'session')}.value = 'another'")
    page.evaluate(f"{widget('KontextSampler', 'steps')}.value = 1000")
    page.click(RUN)
    page.wait_for(f"/: \\d+ %/.test({STATUS})", seconds=PATIENCE)
    try:
        name = f"renamed {another.id}"  # tests of the routes rename too, on this server if it is the same process
        server.ask(f"/kontext/sessions/{another.id}", {"name": name}, "PATCH")
        page.wait_for(f"!![...{SELECT}.options].find((option) => option.textContent === '{name}')")
        assert page.evaluate(f"[{SELECT}.value, !!{STATUS}]") == [tree.shown, True]
    finally:
        page.evaluate("app.api.interrupt()")
    page.wait_for(f"!{STATUS}")


def test_two_windows_show_what_the_other_one_does(page, tree, events_only, server):
    with Page() as second:
        second.open(server.url)
        second.wait_for_workflow(PATIENCE)
        open_tab(second)
        show(second, tree.shown)
        expect_turns(second, [0, 1, 2, 3, 4], 4)
        second.evaluate(EVENTS_ONLY)
        page.click(f"{row(3)}.querySelector('.kh-text')")
        expect_turns(second, [0, 1, 2, 3, 4], 3)
        second.evaluate(f"{row(2)}.focus()")
        press(second, "s")
        page.wait_for(f"!!{row(2)}.querySelector('[aria-pressed=true]')")
        press(second, "Delete")
        expect_turns(page, [0, 1, 3, 4], 3)
        second.click("document.querySelector('.kh-undo button')")
        expect_turns(page, [0, 1, 2, 3, 4], 3)


def test_what_another_window_did_is_seen_without_an_event(page, tree):
    """This process writes into the store behind the server's back."""
    tree.move(tree.ids[2])
    expect_turns(page, [0, 1, 2, 3, 4], 2)


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


def test_a_late_answer_does_not_bring_an_earlier_session_back(page, tree, another, traffic):
    page.evaluate(
        "window.holds = async (path, answer) =>"
        f" path.startsWith('/kontext/sessions?') && (await answer.json()).session?.id === '{tree.shown}'"
    )
    tree.star(tree.ids[1], True)
    page.wait_for("held")
    show(page, another.id)
    page.evaluate("release()")
    expect_turns(page, [0], 0)
    assert page.evaluate(f"{SELECT}.value") == another.id
