// A person with a browser, as all walks through the portal have one: Debian's Chromium, headless, driven by Playwright.
//
// What fails a walk, beside a step that does not come: anything that axe finds, a page wider than the window, a message of the browser about the policy or a
// script's error, a request to elsewhere.
'use strict';
const fs = require('node:fs');
const path = require('node:path');
const { chromium } = require('playwright-core');
const axe = require('axe-core');

const WIDTHS = [[1280, 800], [390, 844]];
const LOOKS = ['light', 'dark'];

class Person {
    // Opens a browser. `patience`: milliseconds for a step. The token is in the file SWITCHBACK_TOKEN_FILE, pages are photographed into `pictures`.
    static async begin(url, pictures, patience) {
        const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox'] });
        const person = Object.assign(new Person(), { url, pictures, patience, browser, wrong: [] });
        // A refused sign-in and a page that is not there are errors to the browser; walks ask for them.
        person.refusals = ['/portal/sign-in', '/portal/nowhere'];
        // Where a browser may go.
        person.origins = [url];
        person.token = fs.readFileSync(process.env.SWITCHBACK_TOKEN_FILE, 'utf8').trim();
        person.page = await person.window({});
        person.watch();
        return person;
    }

    // A window of its own, which knows nothing of others.
    async window(options) {
        const context = await this.browser.newContext({ ignoreHTTPSErrors: true, ...options });
        const page = await context.newPage();
        page.setDefaultTimeout(this.patience);
        return page;
    }

    watch() {
        this.page.on('console', (message) => {
            const isAskedFor = this.refusals.some((asked) => message.location().url.split('?')[0] === this.url + asked);
            if (message.type() === 'error' && !isAskedFor) this.wrong.push(`console: ${message.text()} ${message.location().url}`);
        });
        this.page.on('pageerror', (error) => this.wrong.push(`script: ${error.message}`));
        this.page.on('request', (request) => {
            if (!this.origins.some((origin) => request.url().startsWith(origin + '/'))) this.wrong.push(`request to elsewhere: ${request.url()}`);
        });
    }

    // Looks at the page as it is, in all widths and looks. It does not change by itself afterwards, until it is loaded anew.
    async look(name) {
        const { page, wrong } = this;
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
                await page.screenshot({ path: path.join(this.pictures, `${name}-${width}-${colorScheme}.png`), fullPage: true });
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

    async signIn(secret, page = this.page) {
        await page.getByLabel('Token').fill(secret);
        await page.getByRole('button', { name: 'Sign in' }).click();
    }

    async tab(name) {
        await this.page.locator('nav.tabs').getByRole('link', { name, exact: true }).click();
        await this.page.getByRole('heading', { level: 1 }).waitFor();
    }

    // Through a confirmation that the page leads to; what the page then says is waited for by whoever asks.
    async confirm(slug, before = async () => {}) {
        await this.page.locator(`#do-${slug}`).click();
        await this.page.locator('dl.told').waitFor();
        for (const term of ['Direction', 'Recovery point', 'Shut down', 'Lost']) {
            await this.page.locator('dl.told dt', { hasText: term }).first().waitFor();
        }
        await before();
        await this.page.locator('main form button').click();
        await this.page.locator('dl.told').waitFor({ state: 'detached' });
        console.log(`asked for ${slug}`);
    }

    // From a machine's page through a confirmation and back to it.
    async operate(machine, slug, before) {
        await this.confirm(slug, before);
        await this.page.getByRole('heading', { level: 1, name: machine, exact: true }).waitFor();
    }

    offered(slug) {
        return this.page.locator(`#do-${slug}`).waitFor();
    }

    says(text) {
        return this.page.locator('#live').getByText(text).first().waitFor();
    }

    // The end: nothing was wrong.
    async end() {
        await this.browser.close();
        if (this.wrong.length > 0) throw new Error(`wrong:\n${this.wrong.join('\n')}`);
        console.log('done');
    }
}

// Walks; says what went wrong, and fails then.
function walk(main) {
    main().catch((error) => {
        console.error(error);
        process.exit(1);
    });
}

module.exports = { Person, walk };
