"""The shipped workflows, from ComfyUI's own list of templates to the picture."""

import pytest
from canvas import Canvas


@pytest.mark.everywhere
def test_text_to_image_opens_from_the_list_of_templates_and_draws(canvas: Canvas) -> None:
    canvas.open_template("text_to_image")
    canvas.run()
    (shown,) = (d for d in canvas.wait_for("executed") if d["node"] == str(canvas.node("SaveImage")))
    assert shown["output"]["images"][0]["filename"].startswith("janus")
