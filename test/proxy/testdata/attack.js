// Makes the browser send requests to another server on this machine in every way a page can, each to
// a path of its own. The promise resolves when the fetch requests have ended.
async (target) => {
  const at = kind => target + '/proxy/3000/attack-' + kind
  const add = (tag, props) => document.body.appendChild(Object.assign(document.createElement(tag), props))
  const form = (kind, method, to) => {
    const f = add('form', { action: at(kind), method, target: to })
    f.appendChild(Object.assign(document.createElement('input'), { name: 'a', value: 'b' }))
    f.submit()
  }
  const all = [
    fetch(at('fetch'), { mode: 'no-cors', credentials: 'include' }),
    fetch(at('post'), { method: 'POST', mode: 'no-cors', credentials: 'include', body: 'x' }),
    fetch(at('cors'), { credentials: 'include' }),
    fetch(at('preflight'), { method: 'PUT', headers: { 'X-A': 'b' }, credentials: 'include' }),
    fetch('/redirect?to=' + encodeURIComponent(at('redirect')), { mode: 'no-cors', credentials: 'include' }),
  ]
  add('img', { src: at('img') })
  add('script', { src: at('script.js') })
  add('link', { rel: 'stylesheet', href: at('style') })
  add('iframe', { src: at('iframe') })
  add('object', { data: at('object') })
  add('iframe', { src: '/redirect?to=' + encodeURIComponent(at('iframe-redirect')) })
  add('iframe', { sandbox: 'allow-scripts allow-forms', srcdoc: `<script>fetch(${JSON.stringify(at('null-fetch'))}, {method: 'POST', mode: 'no-cors', body: 'x'})</script>` })
  add('iframe', { sandbox: 'allow-scripts allow-forms', srcdoc: `<form method=post action=${at('null-form')}><input name=a></form><script>document.forms[0].submit()</script>` })
  add('iframe', { name: 'frame' })
  form('form-frame', 'post', 'frame')
  form('form-blank', 'post', '_blank')
  form('form-get', 'get', '_blank')
  open(at('open'))
  open('/redirect?to=' + encodeURIComponent(at('open-redirect')))
  const blank = open('about:blank').document
  blank.write(`<meta http-equiv=refresh content="0;url=${at('refresh')}">`)
  blank.close()
  Object.assign(add('a', { href: at('link'), target: '_blank', textContent: 'x' })).click()
  navigator.sendBeacon(at('beacon'), 'x')
  new WebSocket(at('websocket').replace('http', 'ws'))
  new EventSource(at('events'), { withCredentials: true })
  new Worker(URL.createObjectURL(new Blob([`fetch(${JSON.stringify(at('worker'))}, {mode: 'no-cors', credentials: 'include'})`])))
  await Promise.allSettled(all)
  return true
}
