// What the pages share: the state of their EventSource, and a POST that shows what went wrong.

const STATES = ["connecting", "open", "closed"];

// Shows the state of `source` in #status.  Call the result after close(), which fires no event.
function watch(source) {
  const status = document.querySelector("#status");
  const show = () => {
    status.textContent = STATES[source.readyState];
    status.dataset.state = STATES[source.readyState];
  };
  source.addEventListener("open", show);
  source.addEventListener("error", show);
  show();
  return show;
}

// Posts `body`, and says whether it was taken; if not, the reason stands in #problem.
async function post(url, body) {
  const problem = document.querySelector("#problem");
  let reason = "";
  try {
    const response = await fetch(url, { method: "POST", body });
    if (!response.ok) reason = (await response.json()).detail;
  } catch {
    reason = "The server did not answer.";
  }
  if (problem) {
    problem.textContent = reason;
    problem.hidden = !reason;
  }
  return !reason;
}
