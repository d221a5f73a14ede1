// Opens workflows that were made with CY-CHENYUE/ComfyUI-Janus-Pro: before such a one gets onto the canvas, offers to
// turn that pack's nodes into ours. Newer versions of ComfyUI got the same table for prompts from the API. On the canvas
// they are not left to it: they keep the old size, randomize a fixed seed and do not know how a checkpoint is spelled.
import { app } from "../../../scripts/app.js"

const WORDS = {
    en: {
        title: "Nodes of another Janus pack",
        message:
            "This workflow was made with ComfyUI-Janus-Pro, which is not installed.\n" +
            "Turn these nodes into Janus nodes, with their settings and links?",
        hint: "Only top_p is left out: drawing never used it, describing does without.",
    },
    zh: {
        title: "另一个 Janus 节点包的节点",
        message: "此工作流由 ComfyUI-Janus-Pro 制作，而该节点包没有安装。\n要把这些节点连同设置和连线转换为 Janus 节点吗？",
        hint: "只有 top_p 不会保留：原来的绘图节点从未用到它，描述图像也不需要它。",
    },
    ja: {
        title: "別の Janus パックのノード",
        message:
            "このワークフローは ComfyUI-Janus-Pro で作られましたが、インストールされていません。\n" +
            "設定と接続を保ったまま、これらのノードを Janus のノードに変換しますか？",
        hint: "top_p だけは引き継がれません。元の描画ノードでは使われず、画像の説明には不要だからです。",
    },
}

const rules = fetch(new URL("../replacements.json", import.meta.url))
    .then((answer) => answer.json())
    .then((list) => new Map(list.map((rule) => [rule.old_node_id, rule])))

// A saved link is a list of these, or in newer workflows and in subgraphs an object.
const LINK = ["id", "origin_id", "origin_slot", "target_id", "target_slot", "type"]
const at = (link, field) => (Array.isArray(link) ? LINK.indexOf(field) : field)

// What a subgraph's own inputs and outputs are; a whole workflow has none.
const ends = (graph) => [...(graph.inputs ?? []), ...(graph.outputs ?? [])]

function change(graph, id, fields) {
    const link = graph.links.find((link) => link[at(link, "id")] === id) ?? []
    for (const [field, value] of Object.entries(fields)) link[at(link, field)] = value
    for (const end of ends(graph)) if (end.linkIds?.includes(id)) end.type = fields.type
}

function cut(graph, ids) {
    graph.links = graph.links.filter((link) => !ids.has(link[at(link, "id")]))
    for (const node of graph.nodes) {
        for (const input of node.inputs ?? []) if (ids.has(input.link)) input.link = null
        for (const output of node.outputs ?? []) output.links = output.links?.filter((id) => !ids.has(id)) ?? null
    }
    for (const end of ends(graph)) end.linkIds = end.linkIds?.filter((id) => !ids.has(id))
}

// A list may have the same model in a folder of its own: "deepseek-ai/Janus-Pro-1B" as "Janus-Pro-1B".
const last = (path) => path.split("/").pop()
const spelled = (value, choices) => choices.find((choice) => last(choice) === last(value)) ?? value

function withSettings(fresh, node, rule) {
    const saved = node.widgets_values ?? []
    const old = Array.isArray(saved) ? Object.fromEntries(rule.old_widget_ids.map((id, i) => [id, saved[i]])) : saved
    const settings = rule.input_mapping.map((entry) => [entry.new_id, entry.set_value ?? old[entry.old_id]])
    for (const [name, value] of [...settings, ["control_after_generate", old.control_after_generate]]) {
        const widget = fresh.widgets.find((widget) => widget.name === name)
        if (!widget || value === undefined) continue
        widget.value = widget.type === "combo" ? spelled(value, widget.options.values) : value
    }
    return fresh.serialize()
}

function replace(graph, node, rule) {
    const fresh = LiteGraph.createNode(rule.new_node_id)
    const next = withSettings(fresh, node, rule)
    for (const key of ["id", "pos", "order", "mode", "flags", "title", "color", "bgcolor"])
        if (key in node) next[key] = node[key]
    next.size = fresh.computeSize().map((size, i) => Math.max(size, node.size?.[i] ?? 0))
    const lost = new Set()
    for (const { name, link } of node.inputs ?? []) {
        if (link == null) continue
        const entry = rule.input_mapping.find((entry) => entry.old_id === name)
        const slot = next.inputs.findIndex((input) => input.name === entry?.new_id)
        if (slot < 0) lost.add(link)
        else {
            next.inputs[slot].link = link
            change(graph, link, { target_slot: slot, type: next.inputs[slot].type })
        }
    }
    for (const [index, { links }] of (node.outputs ?? []).entries()) {
        const slot = rule.output_mapping.find((entry) => entry.old_idx === index)?.new_idx
        for (const link of links ?? []) {
            if (slot === undefined) lost.add(link)
            else change(graph, link, { origin_slot: slot, type: next.outputs[slot].type })
        }
        if (slot !== undefined) next.outputs[slot].links = links
    }
    graph.nodes.splice(graph.nodes.indexOf(node), 1, next)
    cut(graph, lost)
}

// Whether the canvas has such nodes before a workflow gets onto it, which is so when a change is undone: they were declined.
const declined = (known, graph = app.rootGraph ?? app.graph) =>
    graph.nodes.some((node) =>
        node.subgraph ? declined(known, node.subgraph) : known.has(node.last_serialization?.type ?? node.type),
    )

app.registerExtension({
    name: "Janus.ReplaceNodes",
    async beforeConfigureGraph(workflow) {
        const known = await rules
        const found = [workflow, ...(workflow.definitions?.subgraphs ?? [])].flatMap((graph) =>
            (graph.nodes ?? [])
                .filter(({ type }) => known.has(type) && !(type in LiteGraph.registered_node_types))
                .map((node) => [graph, node]),
        )
        if (!found.length || declined(known)) return
        const words = WORDS[app.extensionManager.setting.get("Comfy.Locale")] ?? WORDS.en
        const itemList = [...new Set(found.map(([, node]) => node.type))]
        if (await app.extensionManager.dialog.confirm({ ...words, itemList }))
            for (const [graph, node] of found) replace(graph, node, known.get(node.type))
    },
    async afterConfigureGraph(missing) {
        // Newer frontends show this list next, and offer to replace what is in it: our offer was declined, theirs is worse.
        const known = await rules
        missing.splice(0, Infinity, ...missing.filter((entry) => !known.has(entry.type)))
    },
})
