// The buttons that control the training: each asks first, and then shows what the training node answered.
import { send } from "./api.js";
import { h, say } from "./dom.js";

const commands = {
  resume: { text: "Resume", why: "The training node learns on, and the clients play on.", done: "Resumed", when: (phase) => phase === "paused" },
  pause: { text: "Pause", why: "The training node stops learning and the clients wait. Nothing is lost; resume when you like.", done: "Paused", when: (phase) => phase !== "paused" },
  quicksave: { text: "Quicksave", why: "Everything is saved now, replay included, as manual_save. An earlier quicksave is replaced.", done: "Saved", when: () => true },
  stop: { text: "Stop", why: "The training node takes a last checkpoint, tells the clients, and ends the run. It can be resumed later from the command line.", done: "Stopped", danger: true, when: () => true },
};

export function controls(place, dialog, complain) {
  let shown = "";
  const update = (context) => {
    const status = context.head?.status;
    const usable = context.operator && status && !["ended", "stopping"].includes(status.phase);
    const names = usable ? Object.keys(commands).filter((name) => commands[name].when(status.phase)) : [];
    if (names.join() === shown) return;
    shown = names.join();
    place.replaceChildren(...names.map((name) =>
      h("button", { type: "button", class: commands[name].danger ? "danger" : "", onclick: () => confirm(name, context.run) }, commands[name].text)));
  };

  const confirm = (name, run) => {
    const { text, why, done, danger } = commands[name];
    const title = h("h2", { id: "confirm-title" }, `${text} the training?`);
    if (name === "quicksave") title.textContent = "Save the training now?";
    const answer = h("p", { class: "answer", role: "status" });
    const go = h("button", { type: "button", class: danger ? "danger solid" : "primary" }, text);
    const close = h("button", { type: "button", class: "quiet" }, "Cancel");
    close.addEventListener("click", () => dialog.close());
    go.addEventListener("click", async () => {
      go.disabled = true;
      answer.className = "answer waiting";
      say(answer, "Asked. Waiting for the training node to answer…");
      try {
        const outcome = await send("commands", { command: name, run });
        answer.className = `answer ${outcome.state}`;
        say(title, outcome.state === "done" ? done : outcome.state === "refused" ? "The training node refused" : "No answer");
        say(answer, outcome.state === "unanswered" ? `${outcome.message} It may still be carried out: watch the events.` : outcome.message);
      } catch (error) {
        if (error.status === 401) { dialog.close(); complain(error); return; }
        answer.className = "answer refused";
        say(answer, error.message);
      }
      go.remove();
      say(close, "Close");
      close.focus();
    });
    dialog.replaceChildren(title, h("p", { class: "faint" }, why), answer, h("div", { class: "row end" }, close, go));
    dialog.showModal();
    close.focus();
  };
  return { update };
}
