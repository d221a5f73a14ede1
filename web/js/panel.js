// What the pack's nodes show on themselves: one element a node, in the classic renderer and in Nodes 2.0 alike.
import { app } from "../../../scripts/app.js"
import { api } from "../../../scripts/api.js"

const styles = document.createElement("link")
styles.rel = "stylesheet"
styles.href = new URL("panel.css", import.meta.url).href
document.head.append(styles)

/** An element with classes, properties and children. */
export function make(tag, className, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), { className, ...properties })
    element.append(...children)
    return element
}

/** A line for each text, with its number where there are several. */
export function textLines(texts) {
    return texts.map((text, i) =>
        make("div", "janus-answer", {},
            ...(texts.length > 1 ? [make("span", "janus-number", { textContent: `${i + 1}` })] : []),
            make("span", "janus-text", { textContent: text })))
}

/** Put text on the clipboard, which pages from another machine over plain http reach only in the old way. */
async function copy(text) {
    if (navigator.clipboard) return navigator.clipboard.writeText(text)
    const area = document.body.appendChild(make("textarea", "", { value: text }))
    area.select()
    document.execCommand("copy")
    area.remove()
}

/** A button that copies what `text()` gives and says so for a moment. */
export function copyButton(text, label = "Copy") {
    const button = make("button", "janus-button", { textContent: label, title: "Copy the text" })
    button.onclick = async () => {
        await copy(text())
        button.textContent = "Copied"
        setTimeout(() => (button.textContent = label), 1200)
    }
    return button
}

/** Set a widget so that both renderers show it: Nodes 2.0 looks again only when the callback is called. */
export function setWidget(widget, value) {
    widget.value = value
    widget.callback?.(value)
}

/** Tell the frontend that the workflow changed, so that it keeps the change and can undo it. */
export function noteChange() {
    const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker
    if (tracker?.captureCanvasState) tracker.captureCanvasState()
    else tracker?.checkState() // as 1.32.9 calls it
}

/** The node that a run's id stands for: "7", or "3:7" for node 7 inside of subgraph node 3. */
export function nodeAt(id) {
    let graph = app.rootGraph ?? app.graph
    let node
    for (const part of String(id).split(":")) {
        node = graph?.getNodeById(Number(part))
        graph = node?.subgraph
    }
    return node
}

/** How the runs of this page ended, by workflow and node: what a node showed comes back when its tab does. */
const session = new Map()
const keyOf = (node) => `${(app.rootGraph ?? app.graph).id}/${node.graph?.id}/${node.id}`

const ERROR_HEIGHT = 84

/** The wheel scrolls what is longer than its panel, pictures sideways; over anything else it zooms the canvas. */
function scroll(element, turned) {
    const strip = element.querySelector(".janus-pictures")
    if (element.querySelector(".janus-scroll:hover, .janus-error:hover")) turned.stopPropagation()
    else if (strip?.scrollWidth > strip?.clientWidth && !turned.ctrlKey) {
        turned.stopPropagation()
        turned.preventDefault()
        strip.scrollLeft += turned.deltaY || turned.deltaX
    }
}

/**
 * Give the nodes of a type a panel, `height` pixels high or more.
 *
 * `draw(element, output, node)` fills it from what the node has to show, null being nothing yet; it is called while a
 * run goes on, at its end, and when the output comes back with the workflow, its tab or the queue's history. With
 * `kept(node)` the output is saved in the workflow. Above it an error is shown, see errors.js.
 */
export function showOn(type, shows, { draw, kept, height }) {
    const panels = new WeakMap()

    function show(node, output, ended) {
        const panel = panels.get(node)
        if (!panel || !shows(output)) return
        panel.output = output
        draw(panel.shown, output, node)
        if (ended) {
            session.set(keyOf(node), output)
            save(node)
        }
        node.setDirtyCanvas(true, true)
    }

    function save(node) {
        const { janus_files, ...output } = panels.get(node).output // these are gone when ComfyUI starts again
        if (kept(node)) node.properties.janus_output = output
        else delete node.properties.janus_output
        noteChange()
    }

    api.addEventListener("janus.output", ({ detail }) => show(nodeAt(detail.node), detail.output, false))

    app.registerExtension({
        name: `janus.${type}`,
        nodeCreated(node) {
            if (node.comfyClass !== type) return
            const shown = make("div", "janus-shown")
            const error = make("div", "janus-error", { role: "alert", hidden: true })
            // Nodes 2.0 of 1.32.9 gives spare height to what has the class widget-expands.
            const element = make("div", "janus-panel widget-expands", {}, error, shown)
            const least = () => Math.max(height, error.hidden ? 0 : ERROR_HEIGHT)
            for (const event of ["pointerdown", "contextmenu", "dblclick"])
                element.addEventListener(event, (happened) => happened.stopPropagation())
            element.addEventListener("wheel", (turned) => scroll(element, turned))
            let added = 0 // height that the node got for an error, and gives back
            const panel = { shown, output: null, save: () => save(node) }
            panel.setError = (text) => {
                error.textContent = text
                error.hidden = !text
                element.style.minHeight = `${least()}px` // for Nodes 2.0, which does not ask getMinHeight
                const more = text ? Math.max(0, node.computeSize()[1] - node.size[1]) : -added
                added += more
                if (more) node.setSize([node.size[0], node.size[1] + more])
                node.setDirtyCanvas(true, true)
            }
            panels.set(node, panel)
            node.janusPanel = panel
            const widget = node.addDOMWidget("janus_panel", "JANUS_PANEL", element, {
                serialize: false,
                hideOnZoom: false,
                hideInPanel: true, // of properties, which would take the element off the node
                getMinHeight: least,
            })
            widget.serialize = false
            element.style.minHeight = `${least()}px`
            draw(shown, null, node)
            const room = node.computeSize() // which a new node has in Nodes 2.0 only when it is told
            node.setSize([...node.size].map((size, i) => Math.max(size, room[i])))
            const { onExecuted } = node
            node.onExecuted = function (output) {
                onExecuted?.call(this, output)
                show(node, output, true)
            }
        },
        loadedGraphNode(node) {
            if (panels.has(node)) show(node, node.properties.janus_output ?? session.get(keyOf(node)), false)
        },
        onNodeOutputsUpdated(outputs) {
            for (const [id, output] of Object.entries(outputs)) show(nodeAt(id), output, true)
        },
    })
}
