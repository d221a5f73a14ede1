// Save Janus: where the new file is; every Load Janus on the canvas lists it at once.
import { app } from "../../../scripts/app.js"
import { make, showOn } from "./panel.js"

showOn("JanusSave", (output) => output?.text, {
    kept: () => false,
    height: (output) => (output ? 56 : 0),
    draw(element, output) {
        const path = output?.text[0]
        element.replaceChildren(...(path ? [make("div", "janus-scroll", {}, make("span", "janus-text", { textContent: path }))] : []))
    },
})

app.registerExtension({
    name: "janus.saved",
    nodeCreated(node) {
        if (node.comfyClass !== "JanusSave") return
        const { onExecuted } = node
        node.onExecuted = function (output) {
            onExecuted?.call(this, output)
            app.refreshComboInNodes()
        }
    },
})
