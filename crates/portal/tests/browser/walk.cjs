// A person's way through the portal, by clicking: protect, rehearse, fail over, commit, re-protect, fail back, commit, re-protect; and all tabs.
//
//   node walk.cjs URL DIRECTORY_OF_PICTURES      (NODE_PATH: playwright-core and axe-core; SWITCHBACK_TOKEN_FILE: a Contributor's token)
//
// Nothing is loaded anew here while something is waited for: pages change by themselves, as they do for a person. What fails it: a step that does not
// come, anything that axe finds, a page wider than the window, a message of the browser about the policy or a script's error, a request to elsewhere.
'use strict';
const fs = require('node:fs');
const path = require('node:path');
const { chromium } = require('playwright-core');
const axe = require('axe-core');

const [url, pictures] = process.argv.slice(2);
const token = fs.readFileSync(process.env.SWITCHBACK_TOKEN_FILE, 'utf8').trim();
const WIDTHS = [[1280, 800], [390, 844]];
const LOOKS = ['light', 'dark'];
const STEP_MAX_MS = 60000;
const wrong = [];
// A refused sign-in and a page that is not there are errors to the browser; both are asked for here.
const refusals = ['/portal/sign-in', '/portal/nowhere'];

function watch(page) {
    page.on('console', (message) => {
        const isAskedFor = refusals.some((asked) => message.location().url.split('?')[0] === url + asked);
        if (message.type() === 'error' && !isAskedFor) wrong.push(`console: ${message.text()} ${message.location().url}`);
    });
    page.on('pageerror', (error) => wrong.push(`script: ${error.message}`));
    page.on('request', (request) => {
        const isIssuer = process.env.ISSUER && request.url().startsWith(new URL(process.env.ISSUER).origin + '/');
        if (!isIssuer && !request.url().startsWith(url + '/')) wrong.push(`request to elsewhere: ${request.url()}`);
    });
}

// Looks at the page as it is, in all widths and looks; then loads it anew, to go on.
async function look(page, name) {
    // What is judged must not be exchanged meanwhile.
    await page.evaluate(() => document.addEventListener('htmx:beforeRequest', (event) => event.preventDefault()));
    await page.evaluate(axe.source);
    for (const [width, height] of WIDTHS) {
        await page.setViewportSize({ width, height });
        for (const colorScheme of LOOKS) {
            await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
            const place = `${name} at ${width} px, ${colorScheme}`;
            const over = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
            if (over > 0) wrong.push(`${place}: ${over} px wider than the window`);
            await page.screenshot({ path: path.join(pictures, `${name}-${width}-${colorScheme}.png`), fullPage: true });
            const found = await page.evaluate(() => window.axe.run({ resultTypes: ['violations'] }));
            for (const violation of found.violations) {
                const nodes = violation.nodes.slice(0, 3).map((node) => `${node.html} ${node.failureSummary}`).join('\n    ');
                wrong.push(`${place}: ${violation.id}: ${violation.help}\n    ${nodes}`);
            }
        }
    }
    await page.setViewportSize({ width: WIDTHS[0][0], height: WIDTHS[0][1] });
    await page.emulateMedia({ colorScheme: 'light' });
    console.log(`looked at ${name}`);
}

async function signIn(page, secret) {
    await page.getByLabel('Token').fill(secret);
    await page.getByRole('button', { name: 'Sign in' }).click();
}

// From the machine's page through a confirmation and back to it.
async function operate(page, slug, before = async () => {}) {
    await page.locator(`#do-${slug}`).click();
    await page.locator('dl.told').waitFor();
    for (const term of ['Direction', 'Recovery point', 'Shut down', 'Lost']) {
        await page.locator('dl.told dt', { hasText: term }).first().waitFor();
    }
    await before();
    await page.locator('main form button').click();
    await page.getByRole('heading', { level: 1, name: 'web01', exact: true }).waitFor();
    console.log(`asked for ${slug}`);
}

const offered = (page, slug) => page.locator(`#do-${slug}`).waitFor();
const says = (page, text) => page.locator('#live').getByText(text).first().waitFor();

async function cycle(page) {
    await page.getByRole('link', { name: 'Machines', exact: true }).click();
    await look(page, 'machines-none');
    await page.goto(`${url}/portal/machines`);
    await page.getByRole('link', { name: 'Protect a machine' }).click();
    await look(page, 'protect');
    await page.getByLabel('web01').check();
    await page.getByRole('button', { name: 'Protect' }).click();
    await offered(page, 'test-failover');
    await says(page, 'It runs at home and is replicated to recovery.');
    await operate(page, 'test-failover', () => look(page, 'test-failover'));
    await operate(page, 'test-failover-cleanup', async () => {
        await look(page, 'test-failover-cleanup');
        await page.getByLabel('What the test showed').fill('it booted');
    });
    await offered(page, 'failover');
    await look(page, 'machine-protected');
    await page.reload();
    await operate(page, 'failover', () => look(page, 'failover'));
    await offered(page, 'commit');
    await operate(page, 'change-point', () => look(page, 'change-point'));
    await offered(page, 'commit');
    await look(page, 'machine-failed-over');
    await page.reload();
    await operate(page, 'commit', () => look(page, 'commit'));
    await offered(page, 'reprotect');
    await operate(page, 'reprotect', async () => {
        await look(page, 'reprotect');
        await page.getByLabel('home-mt').check();
        await page.getByLabel('recovery-ps').check();
    });
    await says(page, 'It runs at recovery and is replicated to home.');
    await offered(page, 'planned-failover');
    await look(page, 'machine-comes-home');
    await page.reload();
    await operate(page, 'planned-failover', async () => {
        await page.getByRole('button', { name: 'Planned failback' }).waitFor();
        await page.getByText('from recovery to home, its home').waitFor();
        await look(page, 'failback');
    });
    await offered(page, 'commit');
    await operate(page, 'commit');
    await offered(page, 'reprotect');
    await operate(page, 'reprotect');
    await says(page, 'It runs at home and is replicated to recovery.');
    await offered(page, 'failover');
}

async function tabs(page) {
    const names = await page.locator('nav.tabs a').allTextContents();
    if (names.length !== 8) wrong.push(`there are ${names.length} tabs`);
    for (const name of names) {
        await page.locator('nav.tabs').getByRole('link', { name, exact: true }).click();
        await page.getByRole('heading', { level: 1 }).waitFor();
        await look(page, `tab-${name.toLowerCase().replaceAll(' ', '-')}`);
        await page.reload();
    }
}

// Everything can be done without a script.
async function withoutScripts(browser) {
    const context = await browser.newContext({ ignoreHTTPSErrors: true, javaScriptEnabled: false });
    const page = await context.newPage();
    page.setDefaultTimeout(STEP_MAX_MS);
    await page.goto(`${url}/portal/machines?q=web`);
    await signIn(page, token);
    await page.getByRole('link', { name: 'web01' }).click();
    await page.locator('#do-test-failover').click();
    await page.locator('main form button').click();
    await page.getByText('A job works on it').waitFor();
    await page.getByRole('button', { name: 'dark' }).click();
    if ((await page.locator('html').getAttribute('data-theme')) !== 'dark') wrong.push('the choice of looks is lost');
    await page.getByRole('button', { name: 'Sign out' }).click();
    await page.getByRole('heading', { name: 'Sign in' }).waitFor();
    await context.close();
    console.log('it works without scripts');
}

async function main() {
    const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox'] });
    const context = await browser.newContext({ ignoreHTTPSErrors: true });
    const page = await context.newPage();
    page.setDefaultTimeout(STEP_MAX_MS);
    watch(page);
    await page.goto(`${url}/`);
    await signIn(page, 'sbt_wrong');
    await page.getByRole('alert').waitFor();
    await look(page, 'sign-in');
    await signIn(page, token);
    await page.getByRole('heading', { level: 1, name: 'Overview' }).waitFor();
    if ((await page.evaluate(() => document.cookie)) !== '') wrong.push('a script can read the cookie');
    await cycle(page);
    await tabs(page);
    await page.goto(`${url}/portal/nowhere`);
    await look(page, 'not-found');
    await withoutScripts(browser);
    await browser.close();
    if (wrong.length > 0) throw new Error(`wrong:\n${wrong.join('\n')}`);
    console.log('done');
}

function run(walk) {
    walk().catch((error) => {
        console.error(error, wrong);
        process.exit(1);
    });
}

// Other walks need what this one is made of.
module.exports = { url, token, wrong, refusals, chromium, STEP_MAX_MS, watch, look, signIn, run };
if (require.main === module) run(main);
