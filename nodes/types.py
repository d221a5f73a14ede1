"""The socket types of the pack's own values."""

from comfy_api.latest import io

JanusType = io.Custom("JANUS")
TokensType = io.Custom("JANUS_TOKENS")
HistoryType = io.Custom("JANUS_HISTORY")
