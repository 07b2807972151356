#!/usr/bin/env bash
# A biplane trial (Autoscoper, XMALab, XROMM) from its folder to the pose of each bone in each instant: import the bones, register all frames in order, nothing set by hand.
# Stops at the first failure (a pose that did not converge is no failure: exit code 3 at the end); run it again with the same arguments and it goes on where it stopped.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: pipeline/register_trial.sh --trial DIR --out DIR --bones "PREFIX=NAME ..." --voxel "COLUMN ROW SLICE" [options]

  --trial DIR       folder of the trial:
                      xrays/        undistorted pictures, NAME.FRAME.tif or NAME_FRAME.tif; sorted by name they are in the cameras' order
                      calibration/  one file a camera (XMALab's MayaCam 2.0 or 1 text, or JSON), in the same order
                      volumes/      one multi-page TIFF a bone, 0 outside the bone
  --out DIR         everything is written below it: volumes/BONE.nii.gz, frames/<first camera's X-ray>/BONE/parameters.pt, pictures and slicer/
  --bones "P=N ..." how each volume's file name begins, and the bone's name: "rad=radius uln=ulna"
  --voxel "C R S"   voxel size of the volumes along columns, rows and pages, mm: TIFF does not hold it
  --side SIDE       left or right, for the record
  --frames "F ..."  only these frames, as they stand in the file names (default: all)
  --import "FLAGS"  further flags of import_autoscoper.py (--slope, --intercept)
  --register "FLAGS" further flags of registration.py (--ty 500 700 where the bone is nearer to camera 1 than 750 mm)

example
  pipeline/register_trial.sh --trial wrist --out wrist_results --bones "rad=radius uln=ulna" --voxel "0.390625 0.390625 0.625" --side right
TEXT
}

fail() { echo "register_trial.sh: $*" >&2; exit 2; }

trial="" out="" bones="" voxel="" side="" frames="" import="" register=""
while [ $# -gt 0 ]; do
  case "$1" in -h | --help) usage; exit 0 ;; esac
  [ $# -ge 2 ] || fail "$1: no value; see --help"
  case "$1" in
    --trial) trial=$2 ;; --out) out=$2 ;; --bones) bones=$2 ;; --voxel) voxel=$2 ;; --side) side=$2 ;; --frames) frames=$2 ;; --import) import=$2 ;; --register) register=$2 ;;
    *) fail "$1: unknown argument; see --help" ;;
  esac
  shift 2
done
if [ -z "$trial" ] || [ -z "$out" ] || [ -z "$bones" ] || [ -z "$voxel" ]; then usage >&2; exit 2; fi
for folder in xrays calibration volumes; do [ -d "$trial/$folder" ] || fail "$trial: has no folder $folder; expected xrays, calibration and volumes; see --help"; done

here=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python}
read -ra bone_list <<<"$bones"; read -ra voxel_list <<<"$voxel"; read -ra import_flags <<<"$import"; read -ra register_flags <<<"$register"

tiffs=() names=() volumes=()
for bone in "${bone_list[@]}"; do
  [ "${bone#*=}" != "$bone" ] || fail "--bones '$bone': expected PREFIX=NAME, such as rad=radius"
  found=("$trial/volumes/${bone%%=*}"*.tif*)
  [ ${#found[@]} = 1 ] && [ -e "${found[0]}" ] || fail "$trial/volumes: ${#found[@]} files begin with '${bone%%=*}' (${found[*]##*/}); expected one .tif; correct --bones"
  tiffs+=("${found[0]}") names+=("${bone#*=}") volumes+=("$out/volumes/${bone#*=}.nii.gz")
done
calibrations=("$trial/calibration/"*)
frame_of() { sed -nE 's/.*[^0-9]([0-9]+)\.tiff?$/\1/p' <<<"$1"; }
if [ -z "$frames" ]; then frames=$(for xray in "$trial/xrays/"*.tif*; do frame_of "$xray"; done | sort -u); fi
[ -n "$frames" ] || fail "$trial/xrays: holds no NAME.FRAME.tif; expected one picture a camera and frame"

if [ ! -e "${volumes[${#volumes[@]}-1]%.nii.gz}.json" ]; then
  "$python" "$here/pipeline/import_autoscoper.py" -i "${tiffs[@]}" --bones "${names[@]}" --voxel_mm "${voxel_list[@]}" ${side:+--side "$side"} -o "$out/volumes" --overwrite ${import_flags[@]+"${import_flags[@]}"}
fi

last="" pending=() count=0
if [ ${#names[@]} -gt 1 ]; then last="/${names[${#names[@]}-1]}"; fi
for frame in $frames; do
  xrays=()
  for xray in "$trial/xrays/"*.tif*; do if [ "$(frame_of "$xray")" = "$frame" ]; then xrays+=("$xray"); fi; done
  [ ${#xrays[@]} = ${#calibrations[@]} ] || fail "frame $frame: ${#xrays[@]} pictures for ${#calibrations[@]} calibrations; expected one a camera"
  name=$(basename "${xrays[0]%.tif*}")
  if [ -e "$out/frames/$name$last/parameters.pt" ]; then echo "== frame $frame: done already ($out/frames/$name)"; continue; fi
  pending+=("${xrays[@]}") count=$((count + 1)) only=$name
done
[ $count != 0 ] || { echo "done: $out"; exit 0; }
results="$out/frames"
if [ $count = 1 ]; then results="$results/$only"; fi  # registration.py makes a folder a frame where there are several
code=0
"$python" "$here/registration.py" "${pending[@]}" --views --sequence --calibration "${calibrations[@]}" -v "${volumes[@]}" -o "$results" --init search --search full --overwrite \
  ${register_flags[@]+"${register_flags[@]}"} || code=$?
if [ $code = 0 ] || [ $code = 3 ]; then echo "done: $out; look at frames/*/*/slicer/view*_outline.png"; fi
exit $code
