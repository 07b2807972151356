// Requests to the server. The page's own address has the token, so all addresses are relative.

const HEADER = 20; // bytes, see common/review/pictures.py

export async function get(path) {
  return answered(await fetch(path));
}

export async function post(path, content) {
  const headers = { "Content-Type": "application/json" };
  return answered(await fetch(path, { method: "POST", headers, body: JSON.stringify(content) }));
}

async function answered(response) {
  const text = await response.text();
  let content;
  try {
    content = JSON.parse(text);
  } catch {
    throw new Error(text.trim() || `${response.status}`);
  }
  if (content && content.error) throw new Error(content.error);
  return content;
}

export async function picture(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error((await response.json()).error);
  return unpacked(await response.arrayBuffer());
}

// 16-bit grey values, with the share of the X-ray that they cover
export function unpacked(buffer) {
  const head = new DataView(buffer);
  const width = head.getUint16(0, true);
  const height = head.getUint16(2, true);
  return {
    width,
    height,
    cover: [head.getFloat32(4, true), head.getFloat32(8, true)],
    number: head.getUint32(12, true),
    view: head.getUint16(16, true),
    bytes: new Uint8Array(buffer, HEADER, 2 * width * height),
    grey: new Uint16Array(buffer, HEADER, width * height),
  };
}

// The open line to the server; it is opened again if it breaks.
export class Line {
  constructor(onPicture, onMessage, onState) {
    Object.assign(this, { onPicture, onMessage, onState, waits: 500 });
    this.open();
  }

  open() {
    const address = new URL("live", location.href);
    address.protocol = "ws:";
    this.socket = new WebSocket(address);
    this.socket.binaryType = "arraybuffer";
    this.socket.addEventListener("open", () => {
      this.waits = 500;
      this.onState(true);
    });
    this.socket.addEventListener("message", ({ data }) => {
      if (typeof data === "string") this.onMessage(JSON.parse(data));
      else this.onPicture(unpacked(data));
    });
    this.socket.addEventListener("close", () => {
      this.onState(false);
      setTimeout(() => this.open(), this.waits);
      this.waits = Math.min(8000, this.waits * 2);
    });
  }

  get isOpen() {
    return this.socket.readyState === WebSocket.OPEN;
  }

  send(content) {
    if (this.isOpen) this.socket.send(JSON.stringify(content));
    return this.isOpen;
  }
}
