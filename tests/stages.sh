# SPDX-License-Identifier: Apache-2.0
# stages.sh -- sourced by run.sh, sanitize.sh and check_cuda.sh: named stages with their time, and one sum at the end.
passed=0 failed=0 skipped=0

stage() {  # stage NAME COMMAND...: says how long it took; status is the command's
  local name=$1 start=$SECONDS status=0
  shift
  echo "=== $name"
  "$@" || status=$?
  echo "=== $name: $((SECONDS - start)) s$([ $status = 0 ] || echo ", FAILED")"
  return $status
}

count() {  # count NAME COMMAND...: a stage that is one test; status 77 is a skip
  local status=0
  stage "$@" || status=$?
  case $status in
    0) passed=$((passed + 1)) ;;
    77) skipped=$((skipped + 1)) ;;
    *) failed=$((failed + 1)) ;;
  esac
}

run_ctest() {  # run_ctest BUILD-DIRECTORY ARGUMENT...: adds ctest's numbers to the sum
  local dir=$1 junit=$1/junit.xml
  shift
  rm -f "$junit"
  # Waiting OpenMP threads sleep: tests share the cores.
  stage "tests in $(basename "$dir")" env OMP_WAIT_POLICY=passive \
    ctest --test-dir "$dir" -j "$(nproc)" --output-on-failure --output-junit "$junit" --no-tests=ignore "$@"
  local all bad skip
  all=$(grep -om1 'tests="[0-9]*"' "$junit" | tr -dc 0-9)
  bad=$(grep -om1 'failures="[0-9]*"' "$junit" | tr -dc 0-9)
  skip=$(grep -om1 'skipped="[0-9]*"' "$junit" | tr -dc 0-9)
  passed=$((passed + ${all:-0} - ${bad:-0} - ${skip:-0}))
  failed=$((failed + ${bad:-0})) skipped=$((skipped + ${skip:-0}))
}

parallel_jobs() {  # as many compilers as cores, but 2.5 GB of memory for each
  local memory=$(($(awk '/MemAvailable/ {print $2}' /proc/meminfo) / 2500000)) cores
  cores=$(nproc)
  [ "$memory" -ge 1 ] || memory=1
  echo $((memory < cores ? memory : cores))
}

finish() {
  echo "$passed passed, $failed failed, $skipped skipped"
  [ "$failed" = 0 ]
}
