"""The Kontext History tab while something else happens: a run, another window, another tab."""

import time

import numpy as np
import pytest
from history_tab import ROWS, click_tab, drop_picture, expect_turns, show


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
