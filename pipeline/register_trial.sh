#!/usr/bin/env bash
# A biplane trial (Autoscoper, XMALab, XROMM) from its folder to the pose of each bone in each
# instant: imports the bones and registers all frames in order, without manual start poses.
#
# Stops at the first failure. A pose that did not converge is not a failure: the exit code is then 3
# at the end. Run it again with the same arguments to resume.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: pipeline/register_trial.sh --trial DIR --out DIR --bones "PREFIX=NAME ..."
                                  --voxel "COLUMN ROW SLICE" [options]

  --trial DIR       folder of the trial:
                      xrays/        undistorted images, NAME.FRAME.tif or NAME_FRAME.tif; sorted by
                                    name, they are in the order of the cameras
                      calibration/  one file per camera (XMALab's MayaCam 2.0 or 1 text, or JSON),
                                    in the same order
                      volumes/      one multi-page TIFF per bone, 0 outside the bone
  --out DIR         folder of all outputs: volumes/BONE.nii.gz and, for each frame,
                    frames/<X-ray of the first camera>/BONE/ with parameters.pt, images and slicer/
  --bones "P=N ..." beginning of the file name of each volume, and the name of the bone:
                    "rad=radius uln=ulna"
  --voxel "C R S"   voxel spacing of the volumes along columns, rows and pages, mm; TIFF lacks it
  --side SIDE       left or right, stored in the lineage
  --frames "F ..."  only these frames, written as in the file names (default: all)
  --import "FLAGS"  further flags of import_autoscoper.py (--slope, --intercept)
  --register "FLAGS" further flags of registration.py (--ty 500 700 if the bone is less than 750 mm
                    from camera 1)

example
  pipeline/register_trial.sh --trial wrist --out wrist_results --bones "rad=radius uln=ulna" \
    --voxel "0.390625 0.390625 0.625" --side right
TEXT
}

fail() { echo "register_trial.sh: $*" >&2; exit 2; }

trial="" out="" bones="" voxel="" side="" frames="" import="" register=""
while [ $# -gt 0 ]; do
  case "$1" in -h | --help) usage; exit 0 ;; esac
  [ $# -ge 2 ] || fail "$1: no value; see --help"
  case "$1" in
    --trial) trial=$2 ;;
    --out) out=$2 ;;
    --bones) bones=$2 ;;
    --voxel) voxel=$2 ;;
    --side) side=$2 ;;
    --frames) frames=$2 ;;
    --import) import=$2 ;;
    --register) register=$2 ;;
    *) fail "$1: unknown argument; see --help" ;;
  esac
  shift 2
done
if [ -z "$trial" ] || [ -z "$out" ] || [ -z "$bones" ] || [ -z "$voxel" ]; then
  usage >&2
  exit 2
fi
for folder in xrays calibration volumes; do
  [ -d "$trial/$folder" ] ||
    fail "$trial: has no folder $folder; expected xrays, calibration and volumes; see --help"
done

here=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python}
read -ra bone_list <<<"$bones"
read -ra voxel_list <<<"$voxel"
read -ra import_flags <<<"$import"
read -ra register_flags <<<"$register"

tiffs=() names=() volumes=()
for bone in "${bone_list[@]}"; do
  prefix=${bone%%=*} name=${bone#*=}
  [ "$name" != "$bone" ] || fail "--bones '$bone': expected PREFIX=NAME, such as rad=radius"
  found=("$trial/volumes/$prefix"*.tif*)
  [ ${#found[@]} = 1 ] && [ -e "${found[0]}" ] ||
    fail "$trial/volumes: ${#found[@]} files begin with '$prefix' (${found[*]##*/});" \
      "expected one .tif; correct --bones"
  tiffs+=("${found[0]}") names+=("$name") volumes+=("$out/volumes/$name.nii.gz")
done
calibrations=("$trial/calibration/"*)
frame_of() { sed -nE 's/.*[^0-9]([0-9]+)\.tiff?$/\1/p' <<<"$1"; }
if [ -z "$frames" ]; then
  frames=$(for xray in "$trial/xrays/"*.tif*; do frame_of "$xray"; done | sort -u)
fi
[ -n "$frames" ] ||
  fail "$trial/xrays: no NAME.FRAME.tif; expected one image per camera and frame; see --help"

if [ ! -e "${volumes[${#volumes[@]}-1]%.nii.gz}.json" ]; then
  "$python" "$here/pipeline/import_autoscoper.py" -i "${tiffs[@]}" --bones "${names[@]}" \
    --voxel_mm "${voxel_list[@]}" ${side:+--side "$side"} -o "$out/volumes" --overwrite \
    ${import_flags[@]+"${import_flags[@]}"}
fi

last="" pending=() count=0
if [ ${#names[@]} -gt 1 ]; then last="/${names[${#names[@]}-1]}"; fi
for frame in $frames; do
  xrays=()
  for xray in "$trial/xrays/"*.tif*; do
    if [ "$(frame_of "$xray")" = "$frame" ]; then xrays+=("$xray"); fi
  done
  [ ${#xrays[@]} = ${#calibrations[@]} ] ||
    fail "frame $frame: ${#xrays[@]} images for ${#calibrations[@]} calibrations;" \
      "expected one image per camera; correct --frames or the folder"
  name=$(basename "${xrays[0]%.tif*}")
  if [ -e "$out/frames/$name$last/parameters.pt" ]; then
    echo "== frame $frame: done already ($out/frames/$name)"
    continue
  fi
  pending+=("${xrays[@]}") count=$((count + 1)) only=$name
done
[ $count != 0 ] || { echo "done: $out"; exit 0; }
results="$out/frames"
# registration.py makes a folder per frame only if there are several
if [ $count = 1 ]; then results="$results/$only"; fi
code=0
"$python" "$here/registration.py" "${pending[@]}" --views --sequence \
  --calibration "${calibrations[@]}" -v "${volumes[@]}" -o "$results" \
  --init search --search full --overwrite ${register_flags[@]+"${register_flags[@]}"} || code=$?
if [ $code = 0 ] || [ $code = 3 ]; then
  echo "done: $out; check the outlines in frames/*/*/slicer/view*_outline.png"
fi
exit $code
