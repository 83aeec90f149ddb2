#!/usr/bin/env bash
# The report as a browser shows it: opens report.html of a run directory in headless Chromium, on a phone
# and on a desk, and checks that nothing is written to the console, that every figure and table is there,
# that no table or figure widens the page, and that nothing is fetched. Screenshots are left for the eye.
#
#   ci/report.sh RUN_DIR [SCREENSHOT_DIR]
#
# Without Chromium it installs Debian's where it may; where that is impossible it says "skipped: <reason>"
# and succeeds.
set -euo pipefail

run=$(realpath "${1:?usage: ci/report.sh RUN_DIR [SCREENSHOT_DIR]}")
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
shots=$(realpath -m "${2:-$tmp/screenshots}")
mkdir -p "$shots"

[ -e "$run/report.html" ] || { echo "$run has no report.html; make it with: bitjoule report $run" >&2; exit 2; }

browser() { command -v chromium || command -v chromium-browser || command -v google-chrome; }
if ! browser >/dev/null; then
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null ||
        { echo "skipped: no Chromium, and not allowed to install it with apt-get"; exit 0; }
    { apt-get update && apt-get install -y --no-install-recommends chromium; } >"$tmp/apt.log" 2>&1 ||
        { echo "skipped: Chromium cannot be installed: $(tail -n 1 "$tmp/apt.log")"; exit 0; }
fi
# A profile of its own; no sandbox, which a container's root does not get.
chromium() {
    timeout 120 "$(browser)" --headless=new --no-sandbox --disable-gpu --hide-scrollbars --no-first-run \
        --disable-background-networking --user-data-dir="$tmp/profile" "$@"
}

# A window is never as narrow as a phone, a frame is; what is in it goes by the frame's width.
frame() {
    cat >"$tmp/frame.html" <<EOF
<!doctype html><meta charset="utf-8"><title>frame</title><style>body { margin: 0 }</style>
<iframe src="file://$run/report.html" style="border:0;width:$1px;height:2900px"></iframe>
<pre id="found">nothing</pre>
<script>
addEventListener('load', () => {
  const d = document.querySelector('iframe').contentDocument;
  const all = s => [...d.querySelectorAll(s)];
  all('details').forEach(e => e.open = true);
  const wide = all('body *').filter(e => !e.closest('.scroll') && e.getBoundingClientRect().right > $1 + 1);
  const found = {
    page: d.documentElement.scrollWidth,
    wide: wide.map(e => e.tagName + '#' + e.id + '.' + e.className),
    answer: d.querySelector('.answer').textContent.trim(),
    figures: all('figure').map(e => e.id),
    drawn: all('figure svg').filter(e => e.getBoundingClientRect().height > 60).length,
    tables: all('figure table').filter(e => e.querySelector('tbody td')).length,
    nameless: all('[role=img]').filter(e => !(e.getAttribute('aria-label') || '').trim()).length,
    fetched: document.querySelector('iframe').contentWindow.performance.getEntriesByType('resource')
      .filter(e => !e.name.startsWith('data:')).length + all('script[src], link[rel=stylesheet], img, iframe').length,
  };
  // A line each, as a shell reads it.
  const lines = Object.entries(found).map(([key, value]) => key + '=' + [value].flat().join(' ').replace(/\\s+/g, ' '));
  document.getElementById('found').textContent = lines.join('\\n');
});
</script>
EOF
}

failed=0
fail() { echo "FAILED at $width px: $*"; failed=1; }
# Every figure that the run has as a file; of memory the fuller one.
figures=$(for f in "$run"/plots/*.svg; do basename "$f" .svg; done | sort)
if grep -qx memory <<<"$figures"; then figures=$(grep -vx rss <<<"$figures"); fi

for width in 360 1280; do
    frame "$width"
    chromium --allow-file-access-from-files --enable-logging=stderr --window-size=1400,1000 --virtual-time-budget=10000 \
        --dump-dom "file://$tmp/frame.html" >"$tmp/dom" 2>"$tmp/log"
    found=$(sed -n '/<pre id="found">/,/<\/pre>/p' "$tmp/dom" | sed 's/.*<pre id="found">//; s/<\/pre>.*//')
    [ "${found:0:5}" = "page=" ] || { fail "the page did not load: $(tail -n 3 "$tmp/log")"; continue; }
    field() { sed -n "s/^$1=//p" <<<"$found"; }
    if grep -q CONSOLE "$tmp/log"; then fail "the console says: $(grep CONSOLE "$tmp/log")"; fi
    [ "$(field page)" -le "$width" ] || fail "the page is $(field page) px wide"
    [ -z "$(field wide)" ] || fail "wider than the page: $(field wide)"
    [ -n "$(field answer)" ] || fail "no answer at the top"
    [ "$(field figures | tr ' ' '\n' | sort)" = "$figures" ] || fail "its figures are $(field figures)"
    n=$(wc -l <<<"$figures")
    [ "$(field drawn)" = "$n" ] || fail "$(field drawn) of $n figures are drawn"
    [ "$(field tables)" = "$n" ] || fail "$(field tables) of $n figures have a table"
    [ "$(field nameless)" = 0 ] || fail "$(field nameless) figures have no alternative text"
    [ "$(field fetched)" = 0 ] || fail "$(field fetched) things are fetched"
    for mode in light dark; do
        theme=()
        [ $mode = light ] || theme=(--force-dark-mode --blink-settings=preferredColorScheme=0)
        # Of a phone the frame, whose page cannot be narrower than a window.
        case $width in
            360) page=file://$tmp/frame.html ;;
            *) page=file://$run/report.html ;;
        esac
        chromium --allow-file-access-from-files "${theme[@]}" --window-size="$((width > 500 ? width : 500)),3000" \
            --screenshot="$shots/$mode-$width.png" "$page" >/dev/null 2>"$tmp/log" ||
            fail "no screenshot: $(tail -n 1 "$tmp/log")"
    done
done
[ "$failed" = 0 ] && echo "report.html of $run: $(wc -l <<<"$figures") figures at 360 and 1280 px, no complaint; screenshots: $shots"
exit "$failed"
