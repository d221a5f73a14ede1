// Colours for the pack's sockets and links, in both node renderers and every colour palette.
import { app } from "../../../scripts/app.js"

const COLOURS = {
    JANUS: "#5b8cff",
    JANUS_TOKENS: "#ff9e64",
    JANUS_HISTORY: "#7bd88f",
    JANUS_SAMPLING: "#d291ff",
}

// Nodes 2.0 reads a CSS variable a type; a palette that names the type sets it on an element further in.
const style = document.createElement("style")
const variables = Object.entries(COLOURS).map(([type, colour]) => `--color-datatype-${type}: ${colour};`)
style.textContent = `:root { ${variables.join(" ")} }`

// The classic renderer reads tables that each palette writes anew, with "" for a type that it does not name.
function keepIn(table) {
    for (const [type, colour] of Object.entries(COLOURS)) {
        let current = table[type] || colour
        Object.defineProperty(table, type, {
            get: () => current,
            set: (chosen) => (current = chosen || colour),
            enumerable: true,
            configurable: true,
        })
    }
}

app.registerExtension({
    name: "Janus.Colours",
    setup() {
        document.head.append(style)
        keepIn(app.canvas.default_connection_color_byType)
        keepIn(app.canvas.constructor.link_type_colors)
    },
})
