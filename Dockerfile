# The suite for a cluster:  docker build -t bone .   (--build-arg REQUIREMENTS=requirements-cpu.txt without GPUs)
#   docker run --rm --gpus all -v "$PWD:/data" bone python /opt/bone/registration.py knee.dcm -v femur.nii.gz -o results
#   docker run --rm -v "$PWD:/data" bone snakemake -s /opt/bone/workflow/Snakefile --cores 8 --configfile my_cohort.yaml
# Apptainer takes the same image:  apptainer build bone.sif docker-daemon://bone:latest
FROM python:3.11-slim-bookworm

ARG REQUIREMENTS=requirements.txt
WORKDIR /opt/bone
COPY requirements.txt requirements-cpu.txt ./
RUN pip install --no-cache-dir -r "$REQUIREMENTS"
COPY . .

# read-only and run by anybody: caches go where everybody may write
ENV NUMBA_CACHE_DIR=/tmp/numba MPLCONFIGDIR=/tmp/matplotlib XDG_CACHE_HOME=/tmp/cache PYTHONDONTWRITEBYTECODE=1
RUN useradd --create-home bone
USER bone
WORKDIR /data
CMD ["python", "/opt/bone/registration.py", "--help"]
