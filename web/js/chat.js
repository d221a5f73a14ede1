// Janus Chat: the conversation as turns, how much of the model's context it takes, and Reply for the next turn.
import { app } from "../../../scripts/app.js"
import { api } from "../../../scripts/api.js"
import { copyButton, make, setWidget, showOn } from "./panel.js"

/** A Janus Chat to the right that goes on with what this one said. */
function reply(node) {
    const next = LiteGraph.createNode("JanusChat")
    next.pos = [node.pos[0] + node.size[0] + 60, node.pos[1]]
    node.graph.add(next)
    node.connect(node.findOutputSlot("history"), next, next.findInputSlot("history"))
    const link = node.graph.links.get(node.inputs[node.findInputSlot("janus")].link)
    const slot = next.findInputSlot("janus")
    const model = link && node.graph.getNodeById(link.origin_id)
    if (model) model.connect(link.origin_slot, next, slot)
    // Inside a subgraph the model may come from the subgraph's own input, which is no node.
    else if (link) node.graph.inputs[link.origin_slot].connect(next.inputs[slot], next)
    for (const name of ["max_tokens", "temperature", "seed"]) {
        const [from, to] = [node, next].map(({ widgets }) => widgets.find((widget) => widget.name === name))
        setWidget(to, from.value)
    }
    app.canvas.selectNode(next)
}

showOn("JanusChat", (output) => output?.janus_turns, {
    kept: (node) => node.properties.janus_keep === true,
    height: 190,
    draw(element, output, node) {
        const turns = output?.janus_turns ?? []
        const talk = make("div", "janus-scroll", {},
            ...turns.map(({ role, content, pictures, image }) => make("div", `janus-said ${role}`, {},
                ...(image ? [make("img", "janus-drawn", { src: api.apiURL(`/view?${new URLSearchParams(image)}`), alt: "A picture", draggable: false })]
                    : pictures ? [make("div", "janus-count", { textContent: pictures > 1 ? `${pictures} pictures` : "1 picture" })] : []),
                content)))
        if (!turns.length) talk.append(make("span", "janus-quiet", { textContent: "The conversation appears here." }))
        const [used, limit] = output?.janus_context ?? []
        const length = make("span", "janus-context", {
            textContent: limit ? `${used} of ${limit} tokens` : "",
            title: "How much of what the model can hold at once this conversation takes",
        })
        const keep = make("input", "", { type: "checkbox", checked: node.properties.janus_keep === true })
        keep.onchange = () => {
            node.properties.janus_keep = keep.checked
            if (node.janusPanel.output) node.janusPanel.save()
        }
        const title = "Save the conversation that is shown here with the workflow. Off, only your message is saved"
        const bar = make("div", "janus-bar", {}, length, make("label", "janus-keep", { title }, keep, "keep"))
        if (turns.length) {
            const names = { user: "You", assistant: "Janus" }
            const goOn = make("button", "janus-button", { textContent: "Reply", title: "Add the next turn" })
            goOn.onclick = (clicked) => {
                clicked.stopPropagation() // a click that goes on to the panel selects this node again
                reply(node)
            }
            bar.append(copyButton(() => turns.map(({ role, content }) => `${names[role]}: ${content || "(a picture)"}`).join("\n")), goOn)
        }
        element.replaceChildren(talk, bar)
        talk.scrollTop = talk.scrollHeight
    },
})
