// Janus Text-to-Image: its last pictures, each with the seed that draws it again alone.
import { app } from "../../../scripts/app.js"
import { api } from "../../../scripts/api.js"
import { make, noteChange, setWidget, showOn } from "./panel.js"

/** Put a picture's seed into the node: it then draws just that picture, again and again. */
function useSeed(node, seed) {
    const values = { seed: Number(seed), batch_size: 1, control_after_generate: "fixed" }
    for (const widget of node.widgets) if (widget.name in values) setWidget(widget, values[widget.name])
    node.setDirtyCanvas(true, true)
    noteChange()
}

// JavaScript rounds larger numbers, and so would the seed widget.
const usable = (seed) => Number.isSafeInteger(Number(seed))

showOn("JanusTextToImage", (output) => output?.janus_pictures, {
    kept: () => false,
    height: (output) => (output ? 92 : 0),
    most: (output) => (output ? 92 : 0),
    draw(element, output, node) {
        const pictures = (output?.janus_pictures ?? []).map(({ seed, filename, subfolder, type }) => {
            const place = new URLSearchParams({ filename, subfolder, type })
            const title = usable(seed) ? `Seed ${seed}. Click to use it.` : `Seed ${seed}, too large for the canvas`
            return make("button", "janus-picture", { title, disabled: !usable(seed), onclick: () => useSeed(node, seed) },
                make("img", "", { src: api.apiURL(`/view?${place}`), alt: title, draggable: false }),
                make("span", "", { textContent: seed }))
        })
        element.replaceChildren(make("div", "janus-pictures", {}, ...pictures))
    },
})

app.registerExtension({
    name: "janus.seeds",
    getNodeMenuItems(node) {
        const pictures = node.janusPanel?.output?.janus_pictures ?? []
        return pictures.filter(({ seed }) => usable(seed)).map(({ seed }, i) => ({
            content: pictures.length > 1 ? `Use seed ${seed} (picture ${i + 1})` : `Use seed ${seed}`,
            callback: () => useSeed(node, seed),
        }))
    },
})
