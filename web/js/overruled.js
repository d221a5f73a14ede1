// Janus Text-to-Image: the inputs that a connected Janus Sampling overrules are grey, and say so.
// (Not in 1.32.9's Nodes 2.0, which draws a widget from a copy.)
import { app } from "../../../scripts/app.js"

const OVERRULED = ["top_k", "top_p", "sampler", "window"]

function mark(node) {
    const overruled = node.inputs?.find(({ name }) => name === "sampling")?.link != null
    for (const widget of node.widgets ?? []) {
        if (!OVERRULED.includes(widget.name) || Boolean(widget.disabled) === overruled) continue
        widget.disabled = overruled
        if (overruled) widget.janusLabel = widget.label
        widget.label = overruled ? `${widget.label ?? widget.name} (overruled)` : widget.janusLabel
    }
    node.setDirtyCanvas(true, true)
}

app.registerExtension({
    name: "janus.overruled",
    nodeCreated(node) {
        if (node.comfyClass !== "JanusTextToImage") return
        const { onConnectionsChange } = node
        node.onConnectionsChange = function (...change) {
            onConnectionsChange?.apply(this, change)
            queueMicrotask(() => mark(this)) // when the link is there
        }
    },
    loadedGraphNode(node) {
        if (node.comfyClass === "JanusTextToImage") mark(node)
    },
})
