#!/usr/bin/env bash
# One patient from CT and labelmap to evaluated registrations: all steps in order. Each step writes
# files that the next one reads.
#
# Stops at the first failure. A pose that did not converge is not a failure: the exit code is then 3
# at the end. Run it again with the same arguments to resume.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: pipeline/run_patient.sh --ct CT --seg LABELMAP --side left|right --xray FILE
                               [--xray FILE ...] --out DIR [options]

  --ct FILE          CT in Hounsfield units: NIfTI, NRRD, MHA, a DICOM folder or zip
  --series "WORDS"   of several CT series, the one of this number, or with these words
  --seg FILE         labelmap of the same patient: NIfTI, .seg.nrrd, DICOM SEG, RTSTRUCT, a folder
                     of one mask per bone
  --side SIDE        side of the X-rays: left or right
  --xray FILE        X-ray (PNG, JPEG, TIFF, DICOM); repeat the flag for several. Results are in a
                     folder of its name, so names must differ
  --out DIR          folder of all outputs
  --labels "A B C D" labels: right and left of the first bone, right and left of the second
                     (default: "3 4 1 2"), numbers, or names that the labelmap states
  --bones "A B"      names of the two bones (default: "femur tibia")
  --only BONE        only this bone
  --reference FILE   cropped CT to which the others are aligned (default: this patient's left bone)
  --model FILE       agnostic model (default: one that is trained on this patient's bones)
  --spacing MM       voxel spacing of the prepared CT (default: 1.0)
  --minutes M        training time of each model (default: 10)
  --no-mask          render the crop box instead of only the labelled bone, for a bone that moves
                     with its surroundings
  --sdd MM           source-to-detector distance of the X-rays: added to DICOM files, handed to
                     registration.py for pictures
  --crop "FLAGS"     further flags of crop_cts.py, such as "--attached tibia=5,6"; all labels are
                     cleaned then
  --train "FLAGS"    further flags of agnostic.py and finetuned.py
  --register "FLAGS" further flags of registration.py (--sdd, --pixel_spacing, ...)
  --drr "FLAGS"      further flags of create_drr.py (--method fused is much faster)
  --kinematics "FLAGS"  at the end, state the joint of femur and tibia over all X-rays, in the order
                     of their names: further flags of kinematics.py, or ""
  --truth SUFFIX     the true pose of X-ray NAME.* is in NAME<SUFFIX>: report pose errors
TEXT
}

labels="3 4 1 2" series="" bones="femur tibia" only="" reference="" model="" spacing=1.0 minutes=10
use_mask=1 sdd="" crop="" train="" register="" drr="" joint=0 kinematics="" truth="" ct="" seg="" side="" out=""
xrays=()
while [ $# -gt 0 ]; do
  case "$1" in
    --ct) ct=$2 ;;
    --seg) seg=$2 ;;
    --series) series=$2 ;;
    --side) side=$2 ;;
    --xray) xrays+=("$2") ;;
    --out) out=$2 ;;
    --labels) labels=$2 ;;
    --bones) bones=$2 ;;
    --only) only=$2 ;;
    --reference) reference=$2 ;;
    --model) model=$2 ;;
    --spacing) spacing=$2 ;;
    --minutes) minutes=$2 ;;
    --sdd) sdd=$2 ;;
    --crop) crop=$2 ;;
    --train) train=$2 ;;
    --register) register=$2 ;;
    --drr) drr=$2 ;;
    --kinematics) joint=1 kinematics=$2 ;;
    --truth) truth=$2 ;;
    --no-mask) use_mask=0; shift; continue ;;
    -h | --help) usage; exit 0 ;;
    *) echo "run_patient.sh: $1: unknown argument; see --help" >&2; exit 2 ;;
  esac
  [ $# -ge 2 ] || { echo "run_patient.sh: $1: no value; see --help" >&2; exit 2; }
  shift 2
done
if [ -z "$ct" ] || [ -z "$seg" ] || [ -z "$out" ] || [ ${#xrays[@]} -eq 0 ]; then
  usage >&2
  exit 2
fi
case "$side" in
  left | right) ;;
  *) echo "run_patient.sh: --side '$side': expected left or right" >&2; exit 2 ;;
esac

if [ $joint = 1 ] && { [ "$bones" != "femur tibia" ] || [ -n "$only" ]; }; then
  echo "run_patient.sh: --kinematics: bones are ${only:-$bones}; expected femur and tibia; leave" \
    "--bones and --only out" >&2
  exit 2
fi

here=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python}

# names of CT and labelmap, then kind (by content) and name of each X-ray, as the scripts name them
listing=$("$python" - "$here" "$ct" "$seg" "${xrays[@]}" <<'PY'
import sys
sys.path.insert(0, sys.argv[1])
from common import files
from common.errors import InputError
from common.volume.nifti import CT, LABELMAP
from common.xray.dicom import is_dicom
try:
    for volume, what in zip(sys.argv[2:4], (CT, LABELMAP)):
        print(files.stem(files.existing_input(volume, what)))
    for xray in sys.argv[4:]:
        path = files.existing_file(xray, "an X-ray (PNG, JPEG, TIFF or DICOM)")
        print("dicom" if is_dicom(path) else "picture", files.stem(path))
except InputError as error:
    sys.exit(f"run_patient.sh: {error}")
PY
) || exit 2
kinds=() views=()
{
  IFS= read -r ct_name
  IFS= read -r seg_name
  while read -r kind view; do kinds+=("$kind"); views+=("$view"); done
} <<<"$listing"
twice=$(printf '%s\n' "${views[@]}" | sort | uniq -d | tr '\n' ' ')
if [ -n "$twice" ]; then
  echo "run_patient.sh: --xray: several files are named ${twice% }; expected a different name for" \
    "each X-ray, since its results are in a folder of that name; rename or copy them" >&2
  exit 2
fi

mkdir -p "$out/segmentations" "$out/xrays" "$out/models"
out=$(cd "$out" && pwd) ct=$(realpath "$ct") seg=$(realpath "$seg")

# step TARGET SCRIPT ARGUMENTS...: skipped if its last output exists. Exit code 3 (the pose did not
# converge) is kept for the end: the result is written and marked.
unconverged=0
step() {
  local target=$1 script=$2 code=0
  shift 2
  if [ -e "$target" ]; then echo "== $script: done already ($target)"; return; fi
  echo "== $script $*"
  "$python" "$here/$script" "$@" --overwrite || code=$?
  if [ $code = 3 ]; then unconverged=3; elif [ $code != 0 ]; then exit $code; fi
}

id=${ct_name%_ct}
clean="$out/segmentations/${seg_name}_cleaned.nii.gz"
suffix=""; [ "$side" = right ] && suffix="_mirrored"
read -ra label_list <<<"$labels"
read -ra bone_list <<<"$bones"
read -ra series_list <<<"$series"
read -ra crop_flags <<<"$crop"
read -ra train_flags <<<"$train"
read -ra register_flags <<<"$register"
read -ra drr_flags <<<"$drr"
chosen=("${bone_list[@]}"); [ -n "$only" ] && chosen=("$only")

ready=() sdd_flags=()
for index in "${!xrays[@]}"; do
  xray=${xrays[$index]} view=${views[$index]}
  if [ -n "$sdd" ] && [ "${kinds[$index]}" = dicom ]; then
    fixed="$out/xrays/$view.dcm"
    step "$fixed" add_dicom_data.py --i "$xray" --o "$fixed" --sdd "$sdd"
    ready+=("$fixed") sdd_flags+=("")
  else
    ready+=("$(realpath "$xray")") sdd_flags+=("${sdd:+--sdd $sdd}")
  fi
done

cleaned_labels=()
if [ -z "$crop" ]; then cleaned_labels=(--labels "${label_list[@]}"); fi
step "$clean" segmentation_preprocessing.py -i "$seg" -o "$out/segmentations" \
  ${cleaned_labels[@]+"${cleaned_labels[@]}"}
series_flag=(); [ ${#series_list[@]} -gt 0 ] && series_flag=(--series "${series_list[@]}")
last=${bone_list[${#bone_list[@]}-1]}
step "$out/${last}_masks_cropped/${id}_${last}_mirrored.nii.gz" crop_cts.py --base_dir "$out" \
  --ct_filename "$ct" --seg_filename "$clean" --labels "${label_list[@]}" \
  --bones "${bone_list[@]}" --padding 10 ${series_flag[@]+"${series_flag[@]}"} \
  ${crop_flags[@]+"${crop_flags[@]}"}

for bone in "${chosen[@]}"; do
  name="${id}_${bone}${suffix}"
  aligned="$out/${bone}_cts_coregistered" centred="$out/${bone}_cts_centered"
  masks="$out/${bone}_masks_centered" volume="$centred/$name.nii.gz"
  step "$aligned/coregistration.csv" coregister_cts.py --input_dir "$out/${bone}_cts_cropped" \
    --output_dir "$aligned" \
    --reference_file "${reference:-$out/${bone}_cts_cropped/${id}_${bone}.nii.gz}"
  step "$volume" center_isometric.py -i "$aligned" -o "$centred" --spacing "$spacing"
  mask_dir=() mask_file=()
  if [ $use_mask = 1 ]; then
    mask_dir=(--mask "$masks") mask_file=(--mask "$masks/$name.nii.gz")
  fi
  agnostic=$model
  if [ -z "$agnostic" ]; then
    agnostic="$out/models/${bone}_agnostic.pth"
    step "$agnostic" agnostic.py -i "$centred" -o "$out/models" --name "${bone}_agnostic" \
      --minutes "$minutes" ${mask_dir[@]+"${mask_dir[@]}"} ${train_flags[@]+"${train_flags[@]}"}
  fi
  finetuned="$out/models/$name.pth"
  step "$finetuned" finetuned.py -i "$volume" -o "$out/models" -c "$agnostic" --name "$name" \
    --minutes "$minutes" ${mask_file[@]+"${mask_file[@]}"} ${train_flags[@]+"${train_flags[@]}"}

  for index in "${!ready[@]}"; do
    xray=${ready[$index]} view=${views[$index]}
    read -ra sdd_flag <<<"${sdd_flags[$index]}"
    results="$out/results/$bone/$view" parameters="$out/results/$bone/$view/parameters.pt"
    step "$parameters" registration.py "$xray" -v "$volume" -c "$finetuned" -o "$results" \
      ${mask_file[@]+"${mask_file[@]}"} ${sdd_flag[@]+"${sdd_flag[@]}"} \
      ${register_flags[@]+"${register_flags[@]}"}
    step "$results/drr.png" create_drr.py --volume "$volume" --pose_path "$parameters" \
      --output_path "$results/drr.png" ${drr_flags[@]+"${drr_flags[@]}"} \
      ${mask_file[@]+"${mask_file[@]}"}
    known=()
    if [ -n "$truth" ]; then known=(--truth "$(dirname "${xrays[$index]}")/$view$truth"); fi
    step "$results/evaluation.json" evaluation.py --data_dir "$results" \
      --title_suffix "($view, $bone)" ${known[@]+"${known[@]}"}
    step "$results/3d/scene.html" visualize_3d_drr.py --volume "$volume" \
      --parameters "$parameters" --output_dir "$results/3d"
    step "$results/registration.gif" animate_2d_pose.py --volume "$volume" \
      --parameters "$parameters" --output_path "$results/registration.gif"
    "$python" "$here/read_pt.py" "$parameters" >"$results/parameters.txt"
  done
done

if [ $joint = 1 ]; then
  read -ra kinematics_flags <<<"$kinematics"
  frames=() femurs=() tibias=()
  for bone in femur tibia; do
    name="${id}_${bone}${suffix}" frame="$out/kinematics/$bone.json"
    step "$frame" pipeline/anatomical_frame.py -v "$out/${bone}_cts_cropped/$name.nii.gz" \
      --mask "$out/${bone}_masks_cropped/$name.nii.gz" --bone "$bone" -o "$frame"
    frames+=("$frame")
  done
  while read -r view; do
    femurs+=("$out/results/femur/$view") tibias+=("$out/results/tibia/$view")
  done < <("$python" - "$here" "${views[@]}" <<'PY'
import sys
sys.path.insert(0, sys.argv[1])
from common.files import natural
print(*sorted(sys.argv[2:], key=natural), sep="\n")
PY
  )
  step "$out/kinematics/kinematics.csv" pipeline/kinematics.py --femur "${femurs[@]}" \
    --tibia "${tibias[@]}" --frames "${frames[@]}" -o "$out/kinematics" \
    --name "$id, $side knee" ${kinematics_flags[@]+"${kinematics_flags[@]}"}
fi
echo "done: $out/results"
exit $unconverged
