"""The graph on a browser's canvas, for tests: its nodes, their widgets, and runs."""

import json

from tools import ROOT

PATIENCE = 900  # s; a run takes seconds, but not on a machine that does much else
RUN = "document.querySelector('[data-testid=queue-button]')"
BELOW = "document.querySelector('[data-kontext=below]')"  # an outer node's notices
OUTER = "app.graph.nodes.find((node) => node.subgraph)"


def node(kind):
    return f"app.graph.nodes.find((node) => node.type === '{kind}')"


def inner(kind):
    """A node inside the subgraph."""
    return f"{OUTER}.subgraph.nodes.find((node) => node.type === '{kind}')"


class Canvas:
    def __init__(self, page):
        self.page = page
        page.evaluate(
            """(() => {
                Object.assign(window, { ended: 0, ran: [] });
                for (const ending of ['execution_success', 'execution_error'])
                    app.api.addEventListener(ending, () => window.ended++);
                app.api.addEventListener('executing', ({ detail }) => ran.push(String(detail)));
            })()"""
        )

    def open_blueprint(self, name):
        """A blueprint between an example and a node that saves, at one step."""
        graph = json.loads((ROOT / "subgraphs" / f"{name}.json").read_text(encoding="utf-8"))
        self.page.evaluate(
            f"""app.loadGraphData({json.dumps(graph)}, true, true, '{name}').then(() => {{
                const [example, save] = ['KontextExample', 'SaveImage'].map((kind) => LiteGraph.createNode(kind));
                app.graph.add(example);
                app.graph.add(save);
                example.connect(0, {OUTER}, 0);
                {OUTER}.connect(0, save, 0);
            }})"""
        )
        self.set(OUTER, "steps", 1)

    def run(self):
        """A run of the graph, to its end; returns the ids of the nodes that ran."""
        ended = self.page.evaluate("window.ran.length = 0, window.ended")
        self.page.click(RUN)
        self.page.wait_for(f"window.ended > {ended}", seconds=PATIENCE)
        return self.page.evaluate("window.ran")

    def set(self, node, name, value):
        """As by the mouse or the keyboard."""
        self.page.evaluate(
            f"(() => {{ const widget = {node}.widgets.find(({{ name }}) => name === '{name}');"
            f"widget.value = {json.dumps(value)}; widget.callback?.(widget.value); }})()"
        )

    def text(self, node, name):
        """The text of a node's field "notice" or "report"; None without one."""
        return self.page.evaluate(f"{node}.widgets?.find(({{ name }}) => name === '{name}')?.value")

    def notice(self, node):
        if node == OUTER:
            return self.page.evaluate(f"{BELOW}?.textContent")
        return self.text(node, "notice")

    def bypass(self, node, bypassed=True):
        self.page.evaluate(f"{node}.mode = {4 if bypassed else 0}")
