// Save Janus and Save Tokens: where the new file is; every node that loads such files lists it at once.
import { app } from "../../../scripts/app.js"
import { make, showOn } from "./panel.js"

const SAVES = ["JanusSave", "JanusSaveTokens"]

for (const type of SAVES) showOn(type, (output) => output?.text, {
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
        if (!SAVES.includes(node.comfyClass)) return
        const { onExecuted } = node
        node.onExecuted = function (output) {
            onExecuted?.call(this, output)
            app.refreshComboInNodes()
        }
    },
})
