#!/usr/bin/env bash
# `make check-image`: builds the Dockerfile as far as it goes without vLLM's image, and runs what comes of it.
#
# In the place of vLLM's image there is a Debian with Python, pip and, of vLLM's dependencies, those that phi-vision's
# commands import. buildah runs the Dockerfile's steps in chroots: as root, without an engine and without namespaces.
set -euo pipefail
cd "$(dirname "$0")/../.."

for program in debootstrap buildah; do
  command -v "$program" >/dev/null || { echo "$program is missing: apt-get install debootstrap buildah" >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "debootstrap and chroot need root" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs
images=(buildah --root "$work/images" --runroot "$work/run")
base=$(sed -n 's/^FROM //p' Dockerfile)

echo "== a Debian in the place of $base"
debootstrap --variant=minbase --include=python3-pip,ca-certificates bookworm "$work/debian" >"$work/log" 2>&1 ||
  { tail "$work/log" >&2; exit 1; }
rm -f "$work/debian"/usr/lib/python3*/EXTERNALLY-MANAGED # vLLM's image has none
cp /etc/ssl/certs/ca-certificates.crt "$work/debian/etc/ssl/certs/" # of a proxy, where there is one
cp server/constraints/cuda.txt "$work/debian/constraints.txt"
"${PYTHON:-python3}" - <<'EOF' >"$work/debian/requirements.txt"
import tomllib
lines = tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]
print(*(line for line in lines if not line.startswith("pypdfium2")), sep="\n")
EOF
stand_in=$("${images[@]}" from scratch)
"${images[@]}" add --quiet "$stand_in" "$work/debian" / >/dev/null
"${images[@]}" run "$stand_in" -- python3 -m pip install --quiet --root-user-action=ignore --no-cache-dir \
  --constraint /constraints.txt --requirement /requirements.txt
"${images[@]}" commit --quiet "$stand_in" "docker.io/$base" >/dev/null

echo "== the Dockerfile"
"${images[@]}" build --format docker --pull-never --tag phi-vision . >"$work/log" 2>&1 || { tail "$work/log" >&2; exit 1; }
built=$("${images[@]}" from --pull-never phi-vision)
in_it() { "${images[@]}" run "$built" -- "$@"; }

echo "== what is in it"
in_it sh -ec '
  test "$(id -u)" = 10001 && test "$PWD" = "$HOME" && test "$HOME" = /home/phi
  for folder in .cache .cache/huggingface .cache/phi-vision/files; do
    test "$(stat -c %u "$folder")" = 10001 && touch "$folder/probe" && rm "$folder/probe"
  done
  for folder in / /opt/phi-vision /usr/local "$(python3 -c "import phi_vision; print(phi_vision.__path__[0])")"; do
    if touch "$folder/probe" 2>/dev/null; then echo "the user may write to $folder" >&2; exit 1; fi
  done
  python3 - <<EOF
import importlib.metadata, pypdfium2
from phi_vision import page
from phi_vision.planning.checkpoint import DEMO_FOLDER
assert page.files() and (DEMO_FOLDER / "config.json").exists()
groups = {point.group for point in importlib.metadata.distribution("phi-vision").entry_points}
assert {"vllm.general_plugins", "vllm.endpoint_plugins"} <= groups, groups
EOF
  phi-vision --help
  phi-vision serve --help
  phi-vision plan --gpu a10
' >"$work/log" 2>&1 || { tail -20 "$work/log" >&2; exit 1; }

echo "== its entry point, as far as it goes without vLLM"
read -ra entry <<<"$("${images[@]}" inspect --format '{{.OCIv1.Config.Entrypoint}}' "$built" | tr -d '[]')"
in_it "${entry[@]}" --help >/dev/null
said=$(in_it "${entry[@]}" --dry-run --model demo --device cpu 2>&1 || true)
grep -q "vLLM is not installed here" <<<"$said" || { echo "$said" >&2; exit 1; }
echo "the image is as it should be"
