"""A camera that looks into a MuJoCo scene without a window."""

from __future__ import annotations

import ctypes.util
import os
from importlib import import_module
from typing import Any

import numpy as np

from flowkit.errors import UserError

EXTRA = "pip install 'flowkit-fm[video-sim]'"
#: A pixel is the mean of so many by so many that are drawn.
_FINE = 2


def _context(width: int, height: int) -> tuple[Any, str]:
    """An OpenGL context and the name of its kind: EGL where its library is there, OSMesa otherwise.

    Raises:
        UserError: no OpenGL without a window is available.
    """
    # PyOpenGL takes one platform per process, so there is one try: what another part chose stays.
    kind = os.environ.get("PYOPENGL_PLATFORM") or os.environ.get("MUJOCO_GL") or ""
    if kind not in ("egl", "osmesa"):
        kind = "egl" if ctypes.util.find_library("EGL") else "osmesa"
    try:
        if kind == "osmesa":
            from mujoco.osmesa import GLContext
        else:
            from mujoco.egl import GLContext
        context: Any = GLContext(width, height)
        context.make_current()
        return context, kind
    except Exception as error:  # PyOpenGL and its loaders raise many kinds
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"drawing needs OpenGL without a window, and {kind} gives none ({reason}): install Debian's libegl1, "
            "libegl-mesa0 and libgl1-mesa-dri (or libosmesa6), and set MUJOCO_GL to egl or osmesa to choose"
        ) from error


class Camera:
    """Draws what the camera ``name`` of a model sees; shadows, reflections and the sky are off, as they cost most.

    Args:
        model: ``mujoco.MjModel``.
        name: of the camera.
        size: height and width in pixels.

    Raises:
        UserError: no OpenGL without a window is available.
    """

    def __init__(self, model: Any, *, name: str, size: int) -> None:
        # By name: the types of its compiled parts are not known.
        self._mujoco: Any = import_module("mujoco")
        mujoco = self._mujoco
        self._size, side = size, size * _FINE
        vis = model.vis
        vis.global_.offwidth = vis.global_.offheight = side
        vis.quality.shadowsize = vis.quality.offsamples = 0
        self._context, self.kind = _context(side, side)
        self._scene = mujoco.MjvScene(model=model, maxgeom=200)
        for flag in ("mjRND_SHADOW", "mjRND_REFLECTION", "mjRND_SKYBOX", "mjRND_HAZE"):
            self._scene.flags[getattr(mujoco.mjtRndFlag, flag)] = False
        self._draws = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._draws)
        self._camera, self._option = mujoco.MjvCamera(), mujoco.MjvOption()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = model.camera(name).id
        self._model = model
        self._rect = mujoco.MjrRect(0, 0, side, side)
        self._drawn = np.empty((side, side, 3), dtype=np.uint8)

    def __call__(self, data: Any) -> np.ndarray:
        """uint8 (3, size, size) of a ``mujoco.MjData``."""
        mujoco = self._mujoco
        self._context.make_current()
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(self._model, data, self._option, None, self._camera, everything, self._scene)
        mujoco.mjr_render(self._rect, self._scene, self._draws)
        mujoco.mjr_readPixels(self._drawn, None, self._rect, self._draws)
        fine = self._drawn[::-1].reshape(self._size, _FINE, self._size, _FINE, 3).astype(np.uint16)
        mean = (fine.sum(axis=(1, 3), dtype=np.uint16) + _FINE**2 // 2) // _FINE**2
        return mean.astype(np.uint8).transpose(2, 0, 1)

    def close(self) -> None:
        """Give the context back."""
        self._draws.free()
        self._context.free()
