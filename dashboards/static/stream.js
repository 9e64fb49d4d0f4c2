// The one event stream. A browser reconnects by itself after a cut; after a refusal it does not,
// so this does, slower each time.

const RETRY_MS = [2000, 5000, 10000, 20000];

export function listen(handlers, onState) {
  let source, refused = 0;
  const open = () => {
    source = new EventSource('/events');
    source.onopen = () => { refused = 0; onState('open'); };
    source.onerror = () => {
      onState('lost');
      if (source.readyState !== EventSource.CLOSED) return;
      setTimeout(open, RETRY_MS[Math.min(refused++, RETRY_MS.length - 1)]);
    };
    for (const [name, handle] of Object.entries(handlers)) {
      source.addEventListener(name, (event) => handle(JSON.parse(event.data)));
    }
  };
  open();
}
