// Janus Caption Folder: how many captions there are, which pictures have none and why, and the newest caption.
import { make, showOn } from "./panel.js"

showOn("JanusCaptionFolder", (output) => output?.text, {
    kept: () => false,
    height: 96,
    draw(element, output) {
        const lines = (output?.text ?? []).map((text) => make("div", "janus-text", { textContent: text }))
        if (!lines.length) lines.push(make("span", "janus-quiet", { textContent: "How far it is appears here." }))
        element.replaceChildren(make("div", "janus-scroll", {}, ...lines))
    },
})
