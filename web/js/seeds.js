// Nodes that draw: what the model thinks, the preview, then the pictures, each with the seed that draws it again alone.
import { app } from "../../../scripts/app.js"
import { api } from "../../../scripts/api.js"
import { make, nodeAt, noteChange, setWidget, showOn, textLines } from "./panel.js"

/** Put a picture's seed into the node: it then draws just that picture, again and again. */
function useSeed(node, seed) {
    const values = { seed: Number(seed), batch_size: 1, tries: 1, control_after_generate: "fixed" }
    if (node.comfyClass === "JanusDrawBest") values.candidates = 1
    for (const widget of node.widgets) if (widget.name in values) setWidget(widget, values[widget.name])
    node.setDirtyCanvas(true, true)
    noteChange()
}

const DRAWING = ["JanusTextToImage", "JanusRepaint", "JanusVariations", "JanusEdit", "JanusDrawBest"]

// JavaScript rounds larger numbers, and so would the seed widget. A picture of another node has no seed here.
const usable = (seed) => seed !== undefined && Number.isSafeInteger(Number(seed))

/** The words under a picture: its seed, what the model thinks of it, or which of several it is. */
function caption({ seed, note }, i, count) {
    const more = note ?? (count > 1 ? `${i + 1} of ${count}` : "")
    if (seed === undefined) return more
    return more ? `seed ${seed} (${more})` : `seed ${seed}`
}

function titleOf({ seed, note }) {
    if (seed === undefined) return note
    return usable(seed) ? `Seed ${seed}. Click to use it.` : `Seed ${seed}, too large for the canvas`
}

/** A mask that Janus Repaint used, rows of 0 and 1 (drawn anew), one pixel for each token. */
function maskOf(rows) {
    const mask = make("canvas", "janus-mask", { width: rows[0].length, height: rows.length })
    const pen = mask.getContext("2d")
    rows.forEach((row, y) => [...row].forEach((token, x) => {
        pen.fillStyle = token === "1" ? "#fff" : "#555"
        pen.fillRect(x, y, 1, 1)
    }))
    return mask
}

/** The masks of a run, below its pictures; nothing for nodes without. */
function maskBar(masks = []) {
    if (!masks.length) return []
    const textContent = masks.flat().join("").includes("1") ? "Drawn anew: the white tokens" : "Nothing was masked"
    return [make("div", "janus-bar", {}, make("span", "", { textContent }), ...masks.map(maskOf))]
}

const pictures = {
    kept: () => false,
    height: 200,
    draw(element, output, node) {
        const pictures = (output?.janus_pictures ?? []).map((picture, i, all) => {
            const { seed, filename, subfolder, type } = picture
            const place = new URLSearchParams({ filename, subfolder, type })
            const title = titleOf(picture)
            return make("button", "janus-picture", { title, disabled: !usable(seed), onclick: () => useSeed(node, seed) },
                make("img", "", { src: api.apiURL(`/view?${place}`), alt: title, draggable: false }),
                make("span", "", { textContent: caption(picture, i, all.length) }))
        })
        const thoughts = textLines(output?.janus_thoughts ?? [])
        const said = thoughts.length ? [make("div", "janus-scroll", {}, ...thoughts)] : []
        if (!pictures.length && said.length) return element.replaceChildren(...said)
        if (!pictures.length) pictures.push(make("span", "janus-quiet", { textContent: "The pictures appear here." }))
        element.replaceChildren(make("div", "janus-pictures", {}, ...pictures), ...maskBar(output?.janus_masks), ...said)
    },
}
for (const type of [...DRAWING, "JanusPickBest"])
    showOn(type, (output) => output?.janus_pictures ?? output?.janus_thoughts, pictures)

// A preview frame takes the place of the last run's pictures.
api.addEventListener("b_preview_with_metadata", ({ detail }) => {
    const node = nodeAt(detail.displayNodeId)
    if (!DRAWING.includes(node?.comfyClass)) return
    const src = URL.createObjectURL(detail.blob)
    const frame = make("img", "", { src, alt: "Preview", draggable: false, onload: () => URL.revokeObjectURL(src) })
    node.janusPanel.shown.replaceChildren(make("div", "janus-pictures", {}, make("div", "janus-picture", {}, frame)))
})

app.registerExtension({
    name: "janus.seeds",
    nodeCreated(node) {
        // The classic renderer would draw the preview a second time here; for Nodes 2.0 see panel.css.
        if (DRAWING.includes(node.comfyClass)) node.onDrawBackground = () => {}
    },
    getNodeMenuItems(node) {
        const pictures = node.janusPanel?.output?.janus_pictures ?? []
        return pictures.filter(({ seed }) => usable(seed)).map(({ seed }, i) => ({
            content: pictures.length > 1 ? `Use seed ${seed} (picture ${i + 1})` : `Use seed ${seed}`,
            callback: () => useSeed(node, seed),
        }))
    },
})
