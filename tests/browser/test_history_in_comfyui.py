"""The Kontext History tab as a part of ComfyUI: its menu, keys, colours and languages."""

import json

import pytest
from history_tab import (
    PATIENCE,
    ROWS,
    WORDS,
    click_tab,
    expect_turns,
    load_template,
    node,
    open_tab,
    press,
    show,
    widget,
)

ENTRIES = [
    "Kontext: undo the last turn",
    "Kontext: redo the turn",
    "Kontext: next sibling",
    "Kontext: previous sibling",
    "Kontext: export the path as files",
    "Kontext: export the path as a strip",
]
KEYS = {
    "PAGEUP alt": "KontextHistory.Undo",
    "PAGEDOWN alt": "KontextHistory.Redo",
    "PAGEDOWN alt shift": "KontextHistory.NextSibling",
    "PAGEUP alt shift": "KontextHistory.PreviousSibling",
    "K": "Workspace.ToggleSidebarTab.kontext-history",
}


MENU = "document.querySelector('.comfy-menu-button-wrapper, [data-testid=comfy-menu-button]')"  # 1.47, 1.58
ENTRY = "(document.querySelector('[role=menuitem].p-focus') ?? document.activeElement).ariaLabel"  # the focused one


def walk_to(page, entry):
    """Press the arrow key until an entry of ComfyUI's menu has the focus."""
    for _ in range(30):
        if page.evaluate(ENTRY) == entry:
            return
        press(page, "ArrowDown")
    pytest.fail(f"the menu has no {entry}")


def test_commands_are_in_the_menu(page, tree):
    page.click(MENU)
    page.wait_for("/^menu/.test(document.activeElement.role)")
    for entry in ("Edit", "Kontext"):
        walk_to(page, entry)
        press(page, "ArrowRight")
        page.wait_for(f"{ENTRY} !== '{entry}'")
    entries = "[...document.querySelectorAll('[role=menuitem]')].map((each) => each.ariaLabel)"
    assert [each for each in page.evaluate(entries) if each.startswith("Kontext: ")] == ENTRIES
    walk_to(page, ENTRIES[0])
    press(page, "Enter")
    expect_turns(page, [0, 1, 2, 3, 4], 0)


def test_no_key_is_taken_from_comfyui(page):
    """A key that a command of ComfyUI has would not be bound to ours."""
    bound = page.evaluate(
        "document.querySelector('#vue-app').__vue_app__.config.globalProperties.$pinia._s.get('keybinding').keybindings"
        ".map(({ commandId, combo }) => [[combo.key.toUpperCase(), combo.ctrl && 'ctrl', combo.alt && 'alt',"
        " combo.shift && 'shift'].filter(Boolean).join(' '), commandId])"
    )
    assert {keys: command for keys, command in bound if "kontext" in command.lower()} == KEYS
    assert len(bound) == len({keys for keys, _ in bound}) > len(KEYS)


def test_k_opens_the_tab(page, tree):
    click_tab(page, "workflows")
    page.evaluate("document.activeElement.blur()")
    press(page, "k")
    assert page.wait_for(f"{ROWS}.length === 5")


CONTRASTS = """(() => {
    const pen = new OffscreenCanvas(1, 1).getContext('2d');
    const paint = (colour) => {
        pen.fillStyle = colour;
        pen.fillRect(0, 0, 1, 1);
        const parts = [...pen.getImageData(0, 0, 1, 1).data].map((part) => part / 255);
        const [red, green, blue] = parts.map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue; // WCAG's relative luminance
    };
    return [...document.querySelectorAll('.kh-text, .kh-facts, .kh-row [aria-pressed=true]')].map((part) => {
        let ground;
        const around = [];
        for (let each = part; each; each = each.parentElement) around.unshift(each);
        for (const each of around) ground = paint(getComputedStyle(each).backgroundColor);
        const ink = paint(getComputedStyle(part).color);
        return [ground, (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05), part.className];
    });
})()"""


@pytest.mark.parametrize("palette", ["light", "dark"])
def test_texts_and_stars_stand_out_from_the_ground(page, tree, palette):
    """A contrast of 3 is WCAG's least for large text and for symbols."""
    for turn in tree.ids[3:]:  # the pointer's row has a ground of its own
        tree.star(turn, True)
    page.wait_for("document.querySelectorAll('.kh-row [aria-pressed=true]').length === 2")
    page.evaluate(f"app.extensionManager.setting.set('Comfy.ColorPalette', '{palette}')")
    try:
        page.wait_for(f"({CONTRASTS}[0][0] > 0.4) === {json.dumps(palette == 'light')}")
        contrasts = page.evaluate(CONTRASTS)
    finally:
        page.evaluate("app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")
    assert [each for each in contrasts if each[1] < 3] == []


def test_the_tab_is_in_korean_and_works_with_nodes_2(page, server, tree, korean):
    page.evaluate("app.extensionManager.setting.set('Comfy.VueNodes.Enabled', true)")
    try:
        page.open(server.url)
        page.wait_for_workflow(PATIENCE)
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
