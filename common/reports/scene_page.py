"""A 3D scene as one web page that needs no network (plotly)."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from common.reports.scene_3d import BONE, SOURCE, Scene, image_grid, limits, lines_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

# longest side of the image on the detector, pixels
TEXTURE_PX = 256
AXIS_TITLES = ("to the right (R) / mm", "to the front (A) / mm", "to the head (S) / mm")
LIGHT = {"ambient": 0.35, "diffuse": 0.8, "specular": 0.2, "roughness": 0.6}
NO_SHADING = {"ambient": 1, "diffuse": 0, "specular": 0}


def draw_page(scene: Scene, title: str) -> str:
    """Return an HTML page that contains the scene and the plotting library."""
    import plotly.graph_objects as go

    figure = go.Figure([_bone(scene), _image(scene), *_lines(scene), _source(scene)])
    low, high = limits(scene)
    axes = {
        f"{axis}axis": {"title": {"text": text}, "range": [low[n], high[n]]}
        for n, (axis, text) in enumerate(zip("xyz", AXIS_TITLES, strict=True))
    }
    figure.update_layout(
        title=html.escape(title),
        scene={**axes, "aspectmode": "data"},
        legend={"itemsizing": "constant"},
        margin={"l": 0, "r": 0, "b": 0, "t": 40},
    )
    return figure.to_html(include_plotlyjs=True, full_html=True)


def _bone(scene: Scene) -> go.Mesh3d:
    import plotly.graph_objects as go

    x, y, z = scene.vertices.T.round(2)
    i, j, k = scene.triangles.T
    return go.Mesh3d(
        x=x,
        y=y,
        z=z,
        i=i,
        j=j,
        k=k,
        color=BONE,
        lighting=LIGHT,
        name="bone",
        showlegend=True,
        hoverinfo="name",
    )


def _image(scene: Scene) -> go.Surface:
    import plotly.graph_objects as go

    image, corners = image_grid(scene, TEXTURE_PX)
    # a surface is coloured at its vertices: the centres of the pixels
    centres = ((corners[:-1, :-1] + corners[1:, 1:]) / 2).round(2)
    return go.Surface(
        x=centres[..., 0],
        y=centres[..., 1],
        z=centres[..., 2],
        surfacecolor=image.round(3),
        colorscale="Gray",
        cmin=0,
        cmax=1,
        showscale=False,
        lighting=NO_SHADING,
        name=scene.image_name,
        showlegend=True,
        hoverinfo="name",
    )


def _lines(scene: Scene) -> list[go.Scatter3d]:
    import plotly.graph_objects as go

    return [
        go.Scatter3d(
            x=line[:, 0],
            y=line[:, 1],
            z=line[:, 2],
            mode="lines",
            line={"color": colour, "width": 5 if name == "principal ray" else 3},
            name=name,
            hoverinfo="name",
        )
        for name, (line, colour) in lines_of(scene).items()
    ]


def _source(scene: Scene) -> go.Scatter3d:
    import plotly.graph_objects as go

    x, y, z = scene.source.tolist()
    marker = {"color": SOURCE, "size": 6}
    return go.Scatter3d(x=[x], y=[y], z=[z], mode="markers", marker=marker, name="X-ray source")
