"""The Kontext History tab in a browser, for tests: where its parts are, and what an artist does there."""

import json

from tools import ROOT

PATIENCE = 900  # s; a run takes seconds, but not on a machine that does much else
RUN = "document.querySelector('[data-testid=queue-button]')"
TAB = "document.querySelector('.%s-tab-button, [data-testid=%s-tab-button]')"  # 1.47, 1.58
ROWS = "[...document.querySelectorAll('.kh-row')]"
SELECT = "document.querySelector('.kontext-history select')"
STATUS = "document.querySelector('.kh-status').textContent"
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
    page.wait_for(f"[...{SELECT}.options].some((option) => option.value === '{session}')")
    page.evaluate(f"{SELECT}.value = '{session}', {SELECT}.dispatchEvent(new Event('change'))")


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


def expect_turns(page, order, pointer, seconds=60):
    """Wait until the rows have these numbers and the pointer is at this one."""
    wanted = json.dumps([order, order.index(pointer)])
    page.wait_for(
        f"JSON.stringify([{ROWS}.map((row) => Number(row.querySelector('.kh-facts').textContent.split(' ')[0])),"
        f" {ROWS}.findIndex((row) => row.classList.contains('kh-here'))]) === {json.dumps(wanted.replace(' ', ''))}",
        seconds=seconds,
    )


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
