// Keeps the pose that is shown with the server, so that it is not lost with this page.

const KEEP_MS = 500; // after the last change

export class Keeper {
  // shown: () => { item, pose, start }; send: (content) => whether the line is open
  constructor(shown, send) {
    Object.assign(this, { shown, send, unkept: false });
  }

  later() {
    this.unkept = true;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.now(), KEEP_MS);
  }

  now() {
    clearTimeout(this.timer);
    const { item, pose, start } = this.shown();
    if (!this.unkept || !item || !pose) return;
    this.unkept = !this.send({ type: "draft", item: item.id, pose, start });
  }

  // what is shown was decided on
  done() {
    clearTimeout(this.timer);
    this.unkept = false;
  }
}
