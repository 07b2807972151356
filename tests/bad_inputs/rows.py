"""The table: a script, its arguments, and the words that its one line of error must hold. One row a case.

Arguments are as typed in a folder that holds what `files.build` has written; outputs go to ``out``. Words are separated by ``|``: the file, what was found, what to do.
"""

from row import Row, rows
from scanner_rows import SCANNERS_OWN

# ------------------------------------------------------------------------------------------------- one file

CT_READERS = {
    "center_isometric": "-i @ -o out",
    "crop_cts": "--base_dir . --ct_filename @ --seg_filename seg.nii.gz",
    "coregister_cts": "--input_dir cohort --output_dir out --reference_file @",
    "finetuned": "-i @ -o out -c other_weights.pth --name m --iterations 1 --device cpu",
    "registration": "xray.png -v @ -o out --sdd 900 --pixel_spacing 1",
    "create_drr": "--volume @ --pose_path result/parameters.pt --output_path out/drr.png",
    "visualize_3d_drr": "--volume @ --parameters result/parameters.pt --output_dir out",
    "animate_2d_pose": "--volume @ --parameters result/parameters.pt --output_path out/a.gif",
    "evaluation": "--data_dir result --truth result/parameters.pt --volume @",
}
CT_FAULTS = [  # those of every reader first
    ("gone.nii.gz", "not found|check the path"),
    ("empty.nii.gz", "is empty (0 bytes)|copy the file again"),
    ("truncated.nii.gz", "truncated or damaged|copy it again"),
    ("series.nii.gz", "has shape|three dimensions"),
    ("nan.nii.gz", "NaN or infinite|convert the CT again"),
    ("unit.nii.gz", "range from 0 to|Hounsfield|rescale"),
    ("sheared.nii.gz", "not perpendicular|resample"),
    ("disagree.nii.gz", "sform and qform are 40 mm apart|set the code"),
    ("lineage_other.nii.gz", "lineage_other.json|does not belong to|run the step again"),
    ("bomb.nii.gz", "header claims|truncated or damaged"),
]
MORE_CT_FAULTS = [
    ("folder.nii.gz", "contains no .nii.gz or .nii file"),
    ("dangling.nii.gz", "not found"),
    ("loop.nii.gz", "not readable|symbolic links"),
    ("/dev/null", "is a device or a pipe|name one file"),
    ("text.nii.gz", "cannot be read|convert or copy"),
    ("text.nii", "cannot be read|convert or copy"),
    ("picture.nii.gz", "cannot be read|convert or copy"),
    ("unpacked.nii.gz", "cannot be read|convert or copy"),
    ("packed.nii", "cannot be read|convert or copy"),
    ("ct.mgz", "is a MGHImage|convert it"),
    ("pair.img", "is a Nifti1Pair|convert it"),
    ("xray.dcm", "contains no CT series|dcm2niix"),
    ("flat.nii.gz", "has shape (24, 20)|three dimensions"),
    ("single.nii.gz", "has shape (24, 20, 1)|at least 2 slices"),
    ("complex.nii.gz", "complex64 voxels|convert it"),
    ("colour.nii.gz", "voxels|of numbers"),
    ("overflow.nii.gz", "integers have overflowed|convert the CT again"),
    ("inf.nii.gz", "NaN or infinite"),
    ("zeros.nii.gz", "range from 0 to 0|expected a bone"),
    ("constant.nii.gz", "range from -1000 to -1000|expected a bone"),
    ("per_mm.nii.gz", "expected a bone|Hounsfield"),
    ("zero_spacing.nii.gz", "singular or not finite|repair the header"),
    ("parallel.nii.gz", "singular|parallel|repair the header"),
    ("nan_affine.nii.gz", "singular or not finite|repair the header"),
    ("kilometre.nii.gz", "voxel spacing|repair the header"),
    ("zero_pixdim.nii.gz", "pixdim|repair the header"),
    ("negative_pixdim.nii.gz", "pixdim|repair the header"),
    ("nowhere.nii.gz", "orientation in the patient is unknown|convert it"),
    ("low_offset.nii.gz", "voxels begin at byte 0|damaged"),
    ("metres.nii.gz", "lengths in meters|expected millimetres"),
    ("claim.nii", "header claims 7.2e+09 bytes|copy it again"),
    ("million.nii", "claims (1000000, 1000000, 1000000) voxels|damaged"),
    ("lineage_torn.nii.gz", "lineage_torn.json|not valid JSON"),
    ("lineage_list.nii.gz", "contains a list|JSON object"),
    ("lineage_endless.nii.gz", "not valid JSON"),
    ("lineage_later.nii.gz", "schema is 'ct-lineage/99'"),
    ("lineage_skewed.nii.gz", "is not rigid|run the step again"),
    ("lineage_nan.nii.gz", "is not rigid|run the step again"),
    ("lineage_away.nii.gz", "bone|part of a file name"),
    ("lineage_short.nii.gz", "incomplete lineage|run the step again"),
]
PARAMETERS_READERS = {
    name: CT_READERS[name].replace("@", "ct.nii.gz").replace("result/parameters.pt", "@")
    for name in ("create_drr", "visualize_3d_drr", "animate_2d_pose")
}
PARAMETERS_FAULTS = [
    ("gone.pt", "not found"),
    ("empty.pt", "is empty"),
    ("cut.pt", "cannot be read"),
    ("hostile.pt", "posix.mkdir|run code on loading|not opened"),
    ("nan_pose.pt", "final_pose is not a rigid|register again"),
    ("other_weights.pth", "is a model checkpoint|look inside"),
    ("elsewhere.pt", "contains 0 % of the registered structure|give that file"),
]
MORE_PARAMETERS_FAULTS = [
    ("text.pt", "cannot be read"),
    ("picture.pt", "cannot be read"),
    ("hostile_legacy.pt", "posix.mkdir|run code"),
    ("hostile_pickle.pt", "run code|not opened"),
    ("tensor.pt", "schema 'Tensor'"),
    ("later.pt", "schema 'registration/99'"),
    ("short.pt", "incomplete|final_pose|register again"),
    ("sheared_pose.pt", "final_pose is not a rigid"),
    ("other_size.pt", "image is (90, 110)|detector 91 x 110"),
    ("no_sdd.pt", "SDD 0 mm"),
    ("wide.pt", "image is (90, 110)"),
    ("no_orientation.pt", "orientation is 'sideways'"),
    ("torn_trajectory.pt", "trajectory|different lengths"),
    ("words.pt", "incomplete|register again"),
]

READING = [
    *[Row(script, arguments.replace("@", name), f"{name.split('.')[0]}|{words}") for script, arguments in CT_READERS.items() for name, words in CT_FAULTS],
    *[Row("center_isometric", f"-i {name} -o out", words) for name, words in MORE_CT_FAULTS],
    *[Row(script, arguments.replace("@", name), f"{name.split('.')[0]}|{words}" if name != "elsewhere.pt" else words) for script, arguments in PARAMETERS_READERS.items() for name, words in PARAMETERS_FAULTS],
    *[Row("create_drr", PARAMETERS_READERS["create_drr"].replace("@", name), words) for name, words in MORE_PARAMETERS_FAULTS],
]  # fmt: skip

# ------------------------------------------------------------------------------------------------ each script

SEGMENTATION = rows("segmentation_preprocessing", [
    ("-i gone.nii.gz -o out", "gone.nii.gz|not found"),
    ("-i empty.nii.gz -o out", "is empty"),
    ("-i truncated.nii.gz -o out", "truncated or damaged"),
    ("-i flat.nii.gz -o out", "three dimensions"),
    ("-i ct.nii.gz -o out", "contains int16 values from -1000|not a CT"),
    ("-i unit.nii.gz -o out", "fractions|probability map"),
    ("-i seg_fractions.nii.gz -o out", "fractions|whole-number labels"),
    ("-i seg_nan.nii.gz -o out", "NaN|whole-number labels"),
    ("-i seg_huge.nii.gz -o out", "numbers beyond all labels"),
    ("-i seg_negative.nii.gz -o out", "values from -4|labels of 0 and above"),
    ("-i seg_million.nii.gz -o out", "contains the value 4000000|not a CT"),
    ("-i seg_nothing.nii.gz -o out", "none of the labels|at least one label"),
    ("-i seg.nii.gz -o out -labels 7", "none of the labels|[3, 4]"),
    ("-i seg.nii.gz -o out -labels 0", "found 0|background"),
    ("-i seg.nii.gz -o out -labels three", "has no label named 'three'|seg.csv"),
    ("-i seg.nii.gz", "-o/--output_dir|--help"),
    ("-i seg.nii.gz -o out --smooth", "unrecognized arguments: --smooth"),
    ("-i seg.nii.gz -o there.png", "there.png|a file has this name|choose another name"),
    ("-i seg.nii.gz -o /proc/none/out", "cannot be made|choose a writable location"),
    (f"-i seg.nii.gz -o {'x' * 300}", "too long|choose"),
])  # fmt: skip

CROP = [*rows("crop_cts", [
    ("--base_dir gone --ct_filename ct.nii.gz --seg_filename seg.nii.gz", "gone|not a folder|--base_dir"),
    ("--base_dir patient --ct_filename gone.nii.gz --seg_filename seg.nii.gz", "not found"),
    ("--base_dir . --ct_filename ct.nii.gz --seg_filename seg_fractions.nii.gz", "seg_fractions|fractions"),
    ("--base_dir . --ct_filename ct.nii.gz --seg_filename seg_nothing.nii.gz", "contains none of the labels|in the file, []"),
    ("--base_dir . --ct_filename ct.nii.gz --seg_filename seg_others.nii.gz", "contains none of the labels|[93, 94]|--labels"),
    ("--base_dir . --ct_filename ct.nii.gz --seg_filename seg_shifted.nii.gz", "voxels are outside ct.nii.gz|belong together"),
    ("--base_dir . --ct_filename ct.nii.gz --seg_filename ct.nii.gz", "not a CT"),
    ("--base_dir . --ct_filename seg.nii.gz --seg_filename seg.nii.gz", "range from 0 to 4|Hounsfield"),
    ("--base_dir . --ct_filename raw.nii.gz --seg_filename seg.nii.gz", "no value below 0|1024"),
    ("--base_dir . --ct_filename ct.nii.gz --seg_filename seg.nii.gz --labels 3 4 1", "found 3 labels for 2 bones|name 4"),
    ("--base_dir . --ct_filename ct.nii.gz --seg_filename seg.nii.gz --labels 3 3 1 2", "different labels"),
    ("--base_dir . --ct_filename ct.nii.gz --seg_filename seg.nii.gz --bones femur ../tibia", "--bones|file name"),
    ("--base_dir . --ct_filename ct.nii.gz --seg_filename seg.nii.gz --padding -3", "--padding|0 to 1000 mm"),
    ("--base_dir . --ct_filename ct.nii.gz --seg_filename seg.nii.gz --padding nan", "--padding|0 to 1000 mm"),
]),
    Row("crop_cts", "--base_dir . --ct_filename ct.nii.gz --seg_filename seg_in_air.nii.gz", "seg_in_air.nii.gz|left femur (label 4) has|which is air|one patient\nright femur (label 3) has|which is air"),
    Row("crop_cts", "--base_dir . --ct_filename ct.nii.gz --seg_filename seg_thin.nii.gz --padding 0", "right femur (label 3) is one voxel thin|--padding", writes=r"femur_(cts|masks)_cropped/ct_femur\.(json|nii\.gz)"),
]  # fmt: skip

COREGISTER = [*rows("coregister_cts", [
    ("--input_dir gone --output_dir out --reference_file ct.nii.gz", "gone|not a folder"),
    ("--input_dir nothing --output_dir out --reference_file ct.nii.gz", "contains no .nii.gz or .nii file"),
    ("--input_dir twice --output_dir out --reference_file ct.nii.gz", "contains both P01.nii and P01.nii.gz|move one of them"),
    ("--input_dir cohort --output_dir cohort --reference_file P01.nii.gz", "is also an input|inputs are never changed"),
    ("--input_dir cohort --output_dir there.png --reference_file P01.nii.gz", "a file has this name"),
    ("--input_dir cohort --output_dir out --reference_file P09.nii.gz", "P09.nii.gz|not found"),
]),
    Row("coregister_cts", "--input_dir cohort_one_bad --output_dir out --reference_file P01.nii.gz", "P02.nii.gz|truncated or damaged", writes=r"out/(P01\.(json|nii\.gz|tfm)|coregistration\.csv)"),
]  # fmt: skip

CENTER = [*rows("center_isometric", [
    ("-i nothing -o out", "contains no .nii.gz or .nii file"),
    ("-i twice -o out", "contains both"),
    ("-i cohort -o out.nii.gz", "is a file name|name a folder"),
    ("-i cohort -o out --mask seg.nii.gz", "not a folder|name a folder"),
    ("-i cohort -o out --mask patient", "P01.nii.gz|not found|labelmap"),
    ("-i ct.nii.gz -o out --mask seg_other_grid.nii.gz", "seg_other_grid.nii.gz|grid|same step"),
    ("-i ct.nii.gz -o out --mask seg_fractions.nii.gz", "fractions"),
    ("-i ct.nii.gz -o out --mask gone.nii.gz", "not found"),
    ("-i ct.nii.gz -o out --spacing 0", "--spacing|0.05 to 50 mm"),
    ("-i ct.nii.gz -o out --spacing nan", "--spacing|0.05 to 50 mm"),
    ("-i ct.nii.gz -o .", "ct.nii.gz|is also an input"),
    ("-i ct.nii.gz -o ct.nii", "ct.json|is also an input"),
    ("-i unpacked.nii.gz -o there.nii", "there.json|already exists|--overwrite"),
]),
    Row("center_isometric", "-i cohort_one_bad -o out", "P02.nii.gz|truncated or damaged", writes=r"out/P01\.(json|nii\.gz)"),
]  # fmt: skip

TRAIN = "-o out --name m --iterations 1 --device cpu"
AGNOSTIC = rows("agnostic", [
    (f"-i gone {TRAIN}", "gone|not a folder|put it in a folder"),
    (f"-i ct.nii.gz {TRAIN}", "ct.nii.gz|not a folder"),
    (f"-i nothing {TRAIN}", "no CT (found notes.txt)|run steps 1 to 4"),
    (f"-i cohort_one_bad {TRAIN}", "P02.nii.gz|truncated or damaged"),
    (f"-i cohort_mixed {TRAIN}", "cohort_mixed|P02.nrrd|convert or remove"),
    (f"-i cohort {TRAIN} --r1 5 5", "--r1|higher end|widen"),
    (f"-i cohort {TRAIN} --tx 900 950", "falls on the detector|pose range"),
    (f"-i cohort {TRAIN} --weight_ncc -1", "--weight_ncc|0 to 1000"),
    (f"-i cohort {TRAIN} --mask gone", "gone|not found"),
    (f"-i cohort {TRAIN} --mask seg_other_grid.nii.gz", "another grid"),
    (f"-i cohort {TRAIN} --mask seg.nii.gz --labels 77", "no voxel of label|[3, 4]|--labels"),
    ("-i cohort -o out --name ../m --iterations 1", "--name|letters, digits"),
    ("-i cohort -o there.png --name m --iterations 1", "a file has this name"),
    (f"-i cohort {TRAIN} --resume", "m_last.pth|not found|without --resume"),
    (f"-i cohort {TRAIN} --height 33", "--height|even number"),
    (f"-i cohort {TRAIN} --lr 7", "--lr"),
    (f"-i cohort {TRAIN} --r1 10 -10", "--r1|higher end"),
    (f"-i cohort {TRAIN} --model_name resnet_of_tomorrow", "resnet_of_tomorrow|no such network"),
    (f"-i cohort {TRAIN} --like no_sdd.dcm", "no_sdd.dcm|no source-to-detector distance"),
])  # fmt: skip
FINETUNED = [*rows("finetuned", [
    (f"-i ct.nii.gz -c {name} {TRAIN}", f"{name}|{words}")
    for name, words in [
        ("gone.pth", "not found"),
        ("empty.pth", "is empty"),
        ("text.pth", "cannot be read"),
        ("cut.pth", "cannot be read"),
        ("hostile.pth", "posix.mkdir|run code on loading"),
        ("no_config.pth", "is not a checkpoint"),
        ("result/parameters.pt", "is not a checkpoint"),
        ("no_height.pth", "no usable height"),
        ("huge.pth", "1000000000 px|16 to 2048"),
        ("nan_sdd.pth", "no usable sdd"),
        ("words.pth", "no usable delx"),
        ("odd_range.pth", "no usable alphamin"),
        ("no_range.pth", "r1|higher end"),
        ("sideways.pth", "orientation is 'sideways'"),
        ("downloads.pth", "would be downloaded"),
        ("other_weights.pth", "weights are not those of the"),
    ]
]), *rows("finetuned", [
    (f"-i ct.nii.gz -c no_backbone.pth {TRAIN}", "resnet_of_tomorrow|no such network"),
    (f"-i ct.nii.gz -c other_weights.pth {TRAIN} --mask seg_shifted.nii.gz", "another grid"),
])]  # fmt: skip

GEOMETRY = "--sdd 900 --pixel_spacing 1"
XRAY_FAULTS = [
    ("gone.png", "not found"),
    ("empty.png", "is empty"),
    ("nothing", "nothing|contains no X-ray"),
    ("text.png", "not an image"),
    ("cut.png", "cannot be read"),
    ("ct.nii.gz", "not an image|PNG, JPEG, TIFF, BMP"),
    ("one_colour.png", "single grey value (77)|contrast"),
    ("black.tif", "single grey value"),
    ("two_greys.png", "2 different grey values|mask"),
    ("one_bit.png", "2 different grey values|mask"),
    ("rgb.png", "colour image"),
    ("rgba.png", "colour image"),
    ("rgb.jpg", "colour image"),
    ("palette.png", "colour image"),
    ("tiny.png", "8 x 8 pixels|16 x 16"),
    ("nan.tif", "NaN or infinite pixels"),
    ("pages.tif", "2 frames"),
    ("picture.gif", "not an image"),
    ("script.eps", "not an image"),
    ("bomb.png", "cannot be read|exceeds limit"),
    ("saturated.png", "holds an image|exposed field"),
    ("json_text.png", "json_text.json|not valid JSON"),
    ("json_words.png", "json_words.json|two numbers"),
    ("json_inf.png", "json_inf.png|SDD inf mm"),
]
DICOM_FAULTS = [
    ("empty.dcm", "is empty"),
    ("text.dcm", "damaged or not DICOM"),
    ("head.dcm", "no pixels|choose the image"),
    ("cut.dcm", "header claims|truncated or damaged"),
    ("report.dcm", "no pixels|choose the image"),
    ("no_sdd.dcm", "no source-to-detector distance|add_dicom_data.py"),
    ("zero_sdd.dcm", "no source-to-detector distance"),
    ("negative_sdd.dcm", "SDD -1020 mm|50 to 10000 mm"),
    ("words.dcm", "DistanceSourceToDetector is not a number|correct the header"),
    ("no_spacing.dcm", "no pixel spacing|--pixel_spacing"),
    ("zero_spacing.dcm", "pixel spacing of 0 x 0 mm"),
    ("frames.dcm", "3 frames|--frame 0 to 2"),
    ("frames.dcm --frame 3", "no frame 3|--frame"),
    ("constant.dcm", "single grey value"),
    ("colour.dcm", "header claims|copy it again"),
    ("palette.dcm", "PALETTE COLOR|export the original"),
    ("many_frames.dcm", "claims 2000000000 frames|damaged"),
    ("wide.dcm", "header claims|truncated or damaged"),
    ("garbled.dcm", "garbled.dcm|export it uncompressed"),
]
REGISTRATION = [
    *[Row("registration", f"{name} -v ct.nii.gz -o out {'' if name.startswith('json') else GEOMETRY}", f"{name}|{words}" if not name.startswith("json") else words) for name, words in XRAY_FAULTS],
    *[Row("registration", f"{name} -v ct.nii.gz -o out", f"{name.split()[0]}|{words}") for name, words in DICOM_FAULTS],
    *rows("registration", [
        ("xray.png -v ct.nii.gz -o out", "xray.png|no source-to-detector distance|no pixel spacing"),
        (f"xray.png -v ct.nii.gz -o there.png {GEOMETRY}", "a file has this name"),
        (f"xray.png copy/xray.png -v ct.nii.gz -o out {GEOMETRY}", "have the same file name (xray)"),
        (f"xray.png -v ct.nii.gz -o out {GEOMETRY} --sdd -5", "SDD -5 mm"),
        (f"xray.png -v ct.nii.gz -o out {GEOMETRY} --sdd nan", "SDD nan mm"),
        (f"xray.png -v ct.nii.gz -o out {GEOMETRY} --pixel_spacing 1 2 3", "--pixel_spacing|3 numbers"),
        (f"xray.png -v ct.nii.gz -o out {GEOMETRY} --labels 3", "--labels|--mask"),
        (f"xray.png -v ct.nii.gz -o out {GEOMETRY} --mask seg_other_grid.nii.gz", "another grid than ct.nii.gz"),
        (f"xray.png -v ct.nii.gz -o out {GEOMETRY} --mask seg_fractions.nii.gz", "fractions"),
        (f"xray.png -v ct.nii.gz -o out {GEOMETRY} --mask seg.nii.gz --labels 9", "no voxel of label [9]"),
        (f"xray.png -v ct.nii.gz -o out {GEOMETRY} --mask seg_nothing.nii.gz", "no voxel of label any"),
        (f"xray.png -v ct.nii.gz -o out {GEOMETRY} --mask gone.nii.gz", "not found"),
        (f"xray.png -v ct.nii.gz -o out {GEOMETRY} -c hostile.pth", "hostile.pth|run code"),
        (f"xray.png -v ct.nii.gz -o out {GEOMETRY} -c other_weights.pth", "weights are not those"),
        (f"xray.png -v ct.nii.gz -o out {GEOMETRY} --init model", "no checkpoint|-c CHECKPOINT"),
        (f"xray.png -v ct.nii.gz -o out {GEOMETRY} --init fixed --init_pose hostile.pt", "run code"),
        (f"xray.png -v ct.nii.gz -o out {GEOMETRY} --init fixed --init_pose start_words.json", "start_words.json|correct the file"),
        (f"xray.png -v ct.nii.gz -o out {GEOMETRY} --init fixed --init_pose start_none.json", "not a rigid 4x4 transform"),
        (f"xray.png -v ct.nii.gz -o out {GEOMETRY} --init fixed --init_pose start_scaled.json", "not a rigid 4x4 transform"),
        (f"xray.png -v ct.nii.gz -o out {GEOMETRY} --init dicom", "PositionerPrimaryAngle|--init search"),
        (f"xray.png -v ct.nii.gz -o out {GEOMETRY} --ty -900 -700", "--ty|above 0"),
        ("xray.dcm -v ct.nii.gz -o out", "measures 24 x 29 mm|correct the pixel spacing"),
        ("xray.png xray.dcm -v ct.nii.gz -o out --views", "--calibration"),
        ("xray.png -v ct.nii.gz -o out --calibration cam.txt", "for images of 1760 x 1520"),
    ]),
    *[Row("registration", f"xray.png -v ct.nii.gz -o out --calibration {name}", f"{name}|{words}") for name, words in [
        ("gone.txt", "not found"), ("cam_empty.txt", "is empty"), ("cam_words.txt", "does not hold 5 rows"), ("cam_binary.txt", "not text"), ("cam_cut.txt", "section 'rotation' does not hold 3 rows"),
        ("cam_inf.txt", "export it again"), ("cam_flat.txt", "camera matrix|positive focal lengths"), ("cam_mirrored.txt", "not a rotation matrix (determinant -1.000)"),
        ("cam_lens.json", "not 4, 5 or 8 numbers|undistort"), ("cam_short.json", "no R, t, image_size"), ("cam_ragged.json", "does not hold numbers"),
    ]],
]  # fmt: skip

CREATE = rows("create_drr", [
    ("--volume ct.nii.gz --pose_path result/parameters.pt --output_path out/drr.jpg", "not a PNG file name"),
    ("--volume ct.nii.gz --pose_path result/parameters.pt --output_path there.png", "there.png|already exists|--overwrite"),
    ("--volume ct.nii.gz --pose_path result/parameters.pt --output_path out/drr.png --supersampling 99", "--supersampling|1 to 8"),
    ("--volume ct.nii.gz --pose_path result/parameters.pt --output_path out/drr.png --labels 3", "--labels|--mask"),
    ("--volume ct.nii.gz --pose_path result/parameters.pt --output_path out/drr.png --mask seg_other_grid.nii.gz", "another grid"),
    ("--volume ct.nii.gz --pose_path result/parameters.pt --output_path out/drr.png --device cuda", "--device cuda|--device auto"),
    ("--volume ct.nii.gz --pose_path result/parameters.pt --output_path /proc/none/drr.png", "cannot be made"),
    (f"--volume ct.nii.gz --pose_path result/parameters.pt --output_path out/{'x' * 300}.png", "too long"),
])  # fmt: skip
VISUALIZE = rows("visualize_3d_drr", [
    ("--volume ct.nii.gz --parameters result/parameters.pt --output_dir there.png", "a file has this name"),
    ("--volume ct.nii.gz --parameters result/parameters.pt --output_dir out --threshold 9000", "nothing above 9000 HU|--threshold"),
    ("--volume ct.nii.gz --parameters result/parameters.pt --output_dir out --threshold nan", "--threshold"),
])  # fmt: skip
ANIMATE = rows("animate_2d_pose", [
    ("--volume ct.nii.gz --parameters result/parameters.pt --output_path out/animation", "not a GIF file name|.gif"),
    ("--volume ct.nii.gz --parameters result/parameters.pt --output_path out/a.gif --max_frames 1", "--max_frames"),
    ("--volume ct.nii.gz --parameters result/parameters.pt --output_path out/a.gif --mode flicker", "--mode|invalid choice"),
])  # fmt: skip
EVALUATION = rows("evaluation", [
    ("--data_dir gone", "gone|not a folder"),
    ("--data_dir nothing", "gt.png|not found"),
    ("--data_dir result --gt_name ../flat_gt.png", "flat_gt.png|no image inside|--gt_name"),
    ("--data_dir result --gt_name ../rgb.png", "colour image"),
    ("--data_dir result --gt_name ../wide.png", "has 110 x 90 pixels|same registration"),
    ("--data_dir result --drr_name ../cut.png", "cut.png|cannot be read"),
    ("--data_dir result --output_name figure.exe", "ends in '.exe'|--output_name"),
    ("--data_dir result --output_name gt.png --overwrite", "gt.png|is also an input"),
    ("--data_dir result --label 3", "--truth"),
    ("--data_dir result --truth gone.json", "not found"),
    ("--data_dir result --truth hostile.pt", "hostile.pt|run code"),
    ("--data_dir result --truth json_text.json", "not valid JSON"),
    ("--data_dir result --truth truth_none.json", "no usable camera"),
    ("--data_dir result --truth truth_scaled.json", "no usable camera"),
    ("--data_dir result --truth truth_labels.json --label 4", "no fiducials of label 4|['3']"),
    ("--data_dir result --truth truth_moved.json --label 4", "truth_moved.json|correct the file"),
    ("--data_dir result --truth truth_points.json", "fiducials have shape (1, 2)"),
])  # fmt: skip
DICOM = rows("add_dicom_data", [
    (f"--i {name} --o out/x.dcm --sdd 1020", f"{name}|{words}")
    for name, words in [("gone.dcm", "not found"), ("empty.dcm", "is empty"), ("text.dcm", "not DICOM"), ("head.dcm", "head.dcm"), ("report.dcm", "no pixels"), ("xray.png", "not DICOM"), ("copy", "is a folder")]
] + [
    ("--i xray.dcm --o xray.dcm --sdd 1020", "xray.dcm|never changed"),
    ("--i xray.dcm --o there.png --sdd 1020", "already exists|--overwrite"),
    ("--i xray.dcm --o out/x.dcm --sdd 1.02", "--sdd|centimetres"),
    ("--i xray.dcm --o out/x.dcm --sdd inf", "--sdd"),
    ("--i xray.dcm --o out/x.dcm --sdd far", "invalid float value: 'far'"),
    ("--i xray.dcm --o out/x.dcm", "--sdd|--help"),
    ("--i xray.dcm --o out/x.dcm --sdd 1020 --source_to_patient 1100", "is not below --sdd"),
    ("--i xray.dcm --o out/x.dcm --sdd 1020 --pixel_spacing 0", "--pixel_spacing"),
    ("--i xray.dcm --o there.png/x.dcm --sdd 1020", "a file has this name"),
])  # fmt: skip
READ_PT = rows("read_pt", [
    (name, f"{name}|{words}")
    for name, words in [
        ("gone.pt", "not found"), ("empty.pt", "is empty"), ("text.pt", "cannot be read"), ("cut.pt", "cannot be read"), ("picture.pt", "cannot be read"), ("ct.nii.gz", "cannot be read"),
        ("hostile.pt", "posix.mkdir|run code"), ("hostile.pth", "posix.mkdir|run code"), ("hostile_legacy.pt", "posix.mkdir|run code"), ("hostile_pickle.pt", "run code"), ("copy", "is a folder"),
    ]
] + [("result/parameters.pt --depth -1", "--depth -1"), ("result/parameters.pt --items 0", "--items 0")])  # fmt: skip

TABLE = [
    *READING,
    *SCANNERS_OWN,
    *SEGMENTATION,
    *CROP,
    *COREGISTER,
    *CENTER,
    *AGNOSTIC,
    *FINETUNED,
    *REGISTRATION,
    *CREATE,
    *VISUALIZE,
    *ANIMATE,
    *EVALUATION,
    *DICOM,
    *READ_PT,
]
