"""Registration: from X-rays and structures to poses, their uncertainty and a verdict.

`register.register` is the entry for Python; `inputs` loads the files that a `request.Request`
names, and `recording` writes the result. Lengths are in millimetres. A pose is ``volume_from_rig``
(4, 4): the volume frame of a structure from the frame of the rig, which for a single view is that
of its camera.
"""
