// Janus Describe Image, Janus Check and Janus Prompt: the words as they come, one answer for each picture.
import { copyButton, make, showOn, textLines } from "./panel.js"

const panel = {
    kept: () => true,
    height: 150,
    draw(element, output) {
        const answers = output?.text ?? []
        const numbered = answers.length > 1
        const text = make("div", "janus-scroll", {}, ...textLines(answers))
        if (!answers.length) text.append(make("span", "janus-quiet", { textContent: "The answer appears here." }))
        const all = () => answers.map((answer, i) => (numbered ? `${i + 1}. ${answer}` : answer)).join("\n")
        const count = make("span", "", { textContent: numbered ? `${answers.length} answers` : "" })
        element.replaceChildren(text, ...(answers.length ? [make("div", "janus-bar", {}, count, copyButton(all))] : []))
    },
}
for (const type of ["JanusDescribeImage", "JanusCheck", "JanusPrompt"]) showOn(type, (output) => output?.text, panel)
