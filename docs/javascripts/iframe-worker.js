// Browsers start no workers from file://. There the search runs in a hidden frame, so that the site works from a disk.
if (location.protocol === 'file:') {
  window.Worker = window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement('iframe');
      frame.hidden = true;
      document.body.append(frame);
      this.inner = frame.contentWindow;
      this.inner.postMessage = (data) => this.dispatchEvent(new MessageEvent('message', {data}));
      this.inner.importScripts = async (...urls) => {
        for (const each of urls) await this.load(each);
      };
      this.loaded = this.load(new URL(url, document.baseURI));
    }

    load(url) {
      const script = this.inner.document.createElement('script');
      script.src = url;
      const loaded = new Promise((resolve, reject) => Object.assign(script, {onload: resolve, onerror: reject}));
      this.inner.document.body.append(script);
      return loaded;
    }

    async postMessage(data) {
      await this.loaded;
      this.inner.dispatchEvent(new MessageEvent('message', {data}));
    }
  };
}
