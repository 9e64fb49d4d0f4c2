// The one event stream. A browser reconnects by itself after a cut; after a refusal it does not,
// so this does, slower each time. It can be closed while nobody looks: a browser opens only six
// connections to one server, and a row of forgotten tabs would use them up.

const RETRY_MS = [2000, 5000, 10000, 20000];

export function listen(handlers, onState) {
  let source = null, refused = 0, retry = null;

  const open = () => {
    if (source) return;
    source = new EventSource('/events');
    source.onopen = () => { refused = 0; onState('open'); };
    source.onerror = () => {
      onState('lost');
      if (source.readyState !== EventSource.CLOSED) return;
      source = null;
      retry = setTimeout(open, RETRY_MS[Math.min(refused++, RETRY_MS.length - 1)]);
    };
    for (const [name, handle] of Object.entries(handlers)) {
      source.addEventListener(name, (event) => handle(JSON.parse(event.data)));
    }
  };

  const close = () => {
    clearTimeout(retry);
    source?.close();
    source = null;
  };

  open();
  return { open, close, get closed() { return source === null; } };
}
