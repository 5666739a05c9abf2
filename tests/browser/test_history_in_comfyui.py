"""The Kontext History tab as a part of ComfyUI: its menu, keys, colours and languages."""

from history_tab import PATIENCE, ROWS, WORDS, expect_turns, load_template, node, open_tab, show, widget


def test_commands_are_in_the_menu_and_keys_are_free(page, tree):
    commands = page.evaluate(
        "app.extensionManager.command.commands.filter(({ id }) => id.startsWith('KontextHistory.'))"
        ".map(({ id, keybinding }) => [id, JSON.stringify(keybinding?.combo ?? null)])"
    )
    bound = [combo for _, combo in commands if combo != "null"]
    assert len(commands) == 6 and len(set(bound)) == len(bound) == 4
    page.evaluate("app.extensionManager.command.execute('KontextHistory.Undo')")
    expect_turns(page, [0, 1, 2, 3, 4], 0)


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
