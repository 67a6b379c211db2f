// News of the node for all tabs of one browser over one event stream.
//
// Over HTTP/1.1 a browser opens at most six connections to a server, and an event stream holds one of them for as long
// as its tab is open. So one tab, the leader, holds the stream and relays it to the others over a BroadcastChannel. A
// tab that receives nothing for a while calls the leader, and takes its place if no answer comes. Calls and answers
// are messages, since timers of hidden tabs are slow. Of two leaders, the one with the larger number steps down.
import { address } from "./api.js";

const patience = 2500; // milliseconds without a message before a call
const answer = () => 200 + 200 * Math.random(); // milliseconds to wait for the answer to a call
const again = 2000; // milliseconds before a new stream after a refusal

export function follow({ onhead, onlog, onstate }, channel = "BroadcastChannel" in globalThis ? new BroadcastChannel("soulsai-news") : null) {
  const me = Math.random();
  let source = null; // the stream, in the leader
  let last = ""; // the id of the newest event
  let head = null; // the newest head, for tabs that open later
  let state = "";
  let timer = 0;

  const deliver = (message) => {
    if (message.kind === "state") {
      state = message.state;
      onstate(state);
      return;
    }
    last = message.id;
    if (message.kind === "head") head = message;
    (message.kind === "head" ? onhead : onlog)(message.data);
  };
  const post = (message) => channel?.postMessage({ ...message, leader: me });
  const publish = (message) => { deliver(message); post(message); };

  // A browser reconnects by itself and sends the id of the last event; only after a refusal it gives up.
  const lead = () => {
    clearTimeout(timer);
    const mine = new EventSource(address("stream", last ? { last_event_id: last } : {}));
    source = mine;
    post({ kind: "here", state, head: null });
    mine.onopen = () => publish({ kind: "state", state: "live" });
    for (const kind of ["head", "log"]) {
      mine.addEventListener(kind, (event) => publish({ kind, id: event.lastEventId, data: JSON.parse(event.data) }));
    }
    mine.onerror = () => {
      publish({ kind: "state", state: "away" });
      if (mine.readyState === EventSource.CLOSED) setTimeout(() => { if (source === mine) lead(); }, again);
    };
  };
  const stop = () => { source?.close(); source = null; };
  const wait = () => { clearTimeout(timer); timer = setTimeout(call, patience); };
  const call = () => {
    clearTimeout(timer);
    channel.postMessage({ kind: "call" });
    timer = setTimeout(lead, answer());
  };

  const receive = ({ data: message }) => {
    if (message.kind === "call") {
      if (source) post({ kind: "here", state, head });
      return;
    }
    if (message.kind === "bye") {
      if (!source) call();
      return;
    }
    if (source && message.leader > me) return; // that one steps down
    if (source) stop();
    wait();
    if (message.kind !== "here") deliver(message);
    else {
      if (message.state && message.state !== state) deliver({ kind: "state", state: message.state });
      if (message.head && message.head.id !== last) deliver(message.head);
    }
  };

  if (channel) {
    channel.onmessage = receive;
    call();
  } else lead();
  return {
    leave: () => {
      clearTimeout(timer);
      if (source) { stop(); post({ kind: "bye" }); }
    },
    enter: () => { if (channel && !source) call(); },
  };
}
