// What went wrong, on the node where it did: newer frontends show it only behind "View details". The next run clears it.
import { api } from "../../../scripts/api.js"
import { nodeAt, showOn } from "./panel.js"

const SILENT = [
    "JanusLoader", "JanusLoRA", "JanusSampling", "JanusVQDecode", "JanusVQEncode", "JanusPickTokens", "JanusJoinTokens",
    "JanusLoadTokens",
] // nodes that show nothing else
for (const type of SILENT)
    showOn(type, () => false, { kept: () => false, height: 0, draw() {} })

const refused = new Set() // nodes with an error of validation
const failed = new Set() // nodes with an error of the run

function show(nodes, id, text) {
    const node = nodeAt(id)
    if (!node?.janusPanel) return
    nodes.add(node)
    node.janusPanel.setError(text)
}

function clear(nodes) {
    for (const node of nodes) node.janusPanel.setError("")
    nodes.clear()
}

/** One of a node's errors in ComfyUI's answer to a queued prompt. */
function sentence({ type, message, details }) {
    if (type === "custom_validation_failed") return details.replace(/^\w+ - /, "") // our own sentence, after the input's name
    if (type === "required_input_missing") return `Nothing is connected to ${details}: draw a wire to it from an output of its colour.`
    return `${message}: ${details}`
}

function showRefused(errors) {
    for (const [id, node] of Object.entries(errors ?? {})) show(refused, id, node.errors.map(sentence).join("\n"))
}

const { queuePrompt } = api
api.queuePrompt = function (...prompt) {
    clear(refused)
    clear(failed)
    const answer = queuePrompt.apply(this, prompt)
    answer.then(
        ({ node_errors }) => showRefused(node_errors), // of outputs that are left out, while others run
        ({ response }) => showRefused(response?.node_errors),
    )
    return answer
}

api.addEventListener("execution_start", () => clear(failed))
api.addEventListener("execution_error", ({ detail }) => show(failed, detail.node_id, detail.exception_message.trim()))
