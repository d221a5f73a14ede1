// Save Janus and Save Tokens: where the new file is; every node that loads such files lists it at once.
import { app } from "../../../scripts/app.js"
import { make, showOn } from "./panel.js"

const SAVES = ["JanusSave", "JanusSaveTokens"]

for (const type of SAVES) showOn(type, (output) => output?.text, {
    kept: () => false,
    height: 56,
    draw(element, output) {
        const path = output?.text[0]
        const text = path ? make("span", "janus-text", { textContent: path }) : make("span", "janus-quiet", { textContent: "The new file's place appears here." })
        element.replaceChildren(make("div", "janus-scroll", {}, text))
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
