// English and Chinese. Codes of reasons and labels of recipes stay as they are.

const WORDS = {
  en: {
    review: "Review", charts: "Charts", people: "People", login: "Log in", logout: "Log out", name: "Name",
    password: "Password", code: "Setup code", setup: "First start", setupHint: "Make the first account with the code that the terminal printed.",
    create: "Create account", pass: "pass", fail: "fail", open: "open", ok: "ok", cosmetic: "cosmetic", rework: "rework", reject: "reject",
    v_pass: "Pass", v_fail: "Fail", v_review: "Review", all: "All", any: "Any", undecided: "To decide", decided: "Decided", filters: "Filters", verdict: "Model says",
    grade: "Grade", label: "Label", camera: "Camera", pipeline: "Pipeline", part: "Part", partSearch: "Part number", from: "From", to: "To",
    state: "State", clear: "Clear", none: "Nothing fits these filters.", noneYet: "No inspections yet. They appear here as parts come in.",
    inspections: "inspections", newOnes: "new", export: "Export", bulk: "Confirm all…", bulkTitle: "Confirm many at once",
    bulkHint: "This confirms the model's pass or fail of every undecided inspection in this list. What the model sent to review is left to you, one by one.",
    bulkCount: "Type the number to confirm:", bulkNone: "There is nothing to confirm in bulk here.", bulkTooMany: "At most 1000 at once: narrow the filters.", confirmed: "confirmed",
    choose: "Choose an inspection.", keys: "Keys", confirmPass: "Confirm pass", confirmFail: "Confirm fail", toFail: "Override: fail", toPass: "Override: pass",
    goodPart: "Good part: pass", badPart: "Bad part: fail", undo: "Undo", why: "Why?", whyHint: "An override needs a reason. It stays in the ledger.",
    r_false: "False alarm: nothing there", r_accept: "Acceptable blemish", r_missed: "Missed defect", r_text: "Text read wrongly", r_worse: "Worse than graded", r_other: "Other reason", save: "Save",
    note: "Note", noteHint: "A note for the ledger (optional)", findings: "Findings", noFindings: "No findings.", texts: "Text", read: "Read", expected: "Expected", notRead: "not read",
    correct: "Correct", history: "Decisions", noHistory: "Nobody has decided yet.", model: "Model", answers: "Model's own answers", noAnswers: "It found nothing to say.", latency: "Time",
    queue: "waiting", preprocess: "resize", vision: "vision", prefill: "prefill", decode: "decode", total: "total", tiles: "tiles", score: "Defect score",
    boxes: "Boxes", grid: "Tiles", heat: "Unlike good parts", draw: "Draw a box", fit: "Whole picture", zoomIn: "Closer", zoomOut: "Farther", remove: "Delete", severity: "Severity", minor: "minor", major: "major", critical: "critical",
    picture_missing: "The picture is missing from the store.", picture_wrong: "The picture in the store is not the one that was inspected.",
    unseen: "Decide without the picture", unseenHint: "You cannot see what was inspected. The ledger keeps that you decided without the picture.",
    noImage: "The picture is not kept any more.", corrected: "Corrections not saved yet", discard: "Discard", saveCorr: "Save corrections", changed: "decided meanwhile. This is the newest state.", changedBy: "changed by",
    saved: "saved", undone: "Taken back", confirm: "confirmed", override: "overrode", decide: "decided", k_undo: "took back", by: "by", origin: "Origin", lot: "Lot", recipe: "Recipe", prompt: "Prompts",
    connected: "live", reconnecting: "reconnecting", partial: "older inspections are still being read in", viewerOnly: "You may look, not decide.",
    yield: "Yield", yieldHint: "Share passed, people's decisions before the model's", pareto: "Parts with each label", pchart: "Share rejected", mean: "mean", limits: "limits", alarmsNone: "In control.",
    a_outside: "outside its limits", a_shift: "shift: 8 in a row on one side", a_run: "rejects in a row", agreement: "Operators and model", agreed: "agreed", person: "Person", lat: "Time from picture to verdict",
    last: "Last", h1: "hour", h8: "8 hours", d1: "day", d7: "7 days", everything: "everything", accounts: "Accounts", role: "Role", viewer: "viewer", operator: "operator", engineer: "engineer",
    outbox: "Messages for the broker", owed: "not yet taken", givenUp: "given up", retry: "Send again what was given up", retried: "They are owed to the broker again",
    recipes: "Recipes", s_active: "active", s_former: "was active", s_found: "found", s_checked: "checked", s_replayed: "replayed", s_refused: "refused", replaying: "Replaying confirmed parts by version",
    details: "Details", makeActive: "Make active", rollbackHint: "This version was active before. It judges the next pictures.", overrideHint: "This version was never active: its replay did not hold, or was not finished. It judges the next pictures all the same, and the ledger keeps your name and your reason.",
    overridden: "by an engineer, without its gate", recipeText: "Text of this version", leftOut: "left out", sample: "sample", recall: "recall", lost: "lost", newAlarms: "new alarms", lostHint: "Confirmed as defective, found before, and passed by this version", alarmsHint: "Confirmed as good, passed before, and not passed by this version", before: "Before", now: "Now",
    learn: "Learn", l_confirmed: "Confirmed parts with their pictures", l_good: "good", l_bad: "defective", l_needed: "There is too little to learn from. Good parts that are needed:", l_few: "These are few: what is learned from them is weak. Good parts to confirm, at least:",
    l_noBank: "No bank was learned yet. A bank compares each part with the good ones: the check is added to the recipe, and no file is edited.", l_noGate: "No gate is set in this recipe: what is learned becomes active once confirmed parts were replayed, whatever changed. Look at before and after, and roll back where it is worse.",
    l_judgedBy: "Judged by", l_features: "Features", l_backbone: "small network (backbone)", l_tower: "the model's vision (tower)", l_again: "Learn again", l_looking: "Looking at confirmed parts", l_learning: "Learning", l_proving: "Replaying confirmed parts",
    l_end_active: "Learned, and active", l_end_refused: "Learned, and refused", l_end_cancelled: "Cancelled", l_end_failed: "Nothing was learned", l_leftOut: "confirmed parts were not learned from", l_steps: "Steps, before and after", l_rollBack: "Roll back", l_noFormer: "No other version was active before.", l_alarmed: "would be findings beside the others", l_found: "would be found",
    np_new: "New product", np_hint: "Put good parts before the camera, leave out what is none, draw the region, name it. Parts are compared with these; no file is edited.", np_take: "Take: from now on", np_chosen: "good parts chosen", np_draw: "Draw what is inspected on the newest picture.", np_region: "region", np_whole: "Whole picture", np_name: "Name of the product", np_mm: "Millimetres a pixel", np_make: "Make", np_use: "Inspect by it:", np_madeOf: "Made of good parts:",
    l_references: "Bank: like good parts", l_head: "Head: unlike defective parts", l_neededEach: "There are too few parts of a kind for a head. Of good ones and of defective ones are needed:", l_fewEach: "These are few: a head of them is weak. Of each kind to confirm, at least:",
    l_noHead: "No head was learned yet. A head tells defective parts from good ones by parts of both kinds; boxes that people drew let it name what it finds. The check is added to the recipe, and no file is edited.",
    l_alarmedKept: "would be findings when kept back", l_folds: "Folds", l_boxed: "With boxes", l_on_references: "Measured on the parts that it was learned from, each good one compared with the others.",
    l_on_head: "Measured on parts that were kept back while it was learned, those of one lot together.", l_on_singly: "Measured on parts that were kept back one by one, all of a kind being of one lot: how it does on another lot nobody knows.", l_replayed: "Before and after shows confirmed parts, and those that it was learned from are among them.",
    tokens: "Tokens for machines", add: "Add", tokenOnce: "Copy it now. It is shown this once.", copy: "Copy", created: "Made", failed: "That did not work", cancel: "Cancel", parts: "parts", newPassword: "Password (8 or more)", oldPassword: "Password until now", changePassword: "Change password", passwordChanged: "Changed. Your other sessions have ended.",
    awaited: "awaited", help: "j next · k previous · y confirm · n override · z undo · b boxes · g tiles · h heat map · d draw · f fit · / search · ? keys", newToken: "New token", language: "中文", theme: "Theme", nothingToUndo: "There is nothing to take back.",
    paused: "paused", noPipeline: "no pipeline", risky: "Defective parts may pass this recipe", c_fault: "fault", c_busy: "starting",
  },
  zh: {
    review: "复核", charts: "图表", people: "用户", login: "登录", logout: "退出", name: "用户名", password: "密码", code: "初始代码", setup: "首次启动", setupHint: "用终端打印的代码创建第一个账户。",
    create: "创建账户", pass: "合格", fail: "不合格", open: "待定", ok: "良好", cosmetic: "外观", rework: "返工", reject: "报废", v_pass: "合格", v_fail: "不合格", v_review: "待复核",
    all: "全部", any: "任意", undecided: "待决定", decided: "已决定", filters: "筛选", verdict: "模型判定", grade: "等级", label: "缺陷", camera: "相机", pipeline: "配方", part: "工件", partSearch: "工件编号", from: "从", to: "到",
    state: "状态", clear: "清除", none: "没有符合条件的检测。", noneYet: "还没有检测。工件到来时会显示在这里。", inspections: "条检测", newOnes: "条新检测", export: "导出", bulk: "全部确认…", bulkTitle: "批量确认",
    bulkHint: "确认此列表中所有未决定检测的模型合格/不合格判定。模型送复核的工件需逐个决定。", bulkCount: "请输入数量以确认：", bulkNone: "没有可批量确认的检测。", bulkTooMany: "一次最多 1000 条：请缩小筛选范围。", confirmed: "已确认",
    choose: "请选择一条检测。", keys: "按键", confirmPass: "确认合格", confirmFail: "确认不合格", toFail: "改判不合格", toPass: "改判合格", goodPart: "好件：合格", badPart: "坏件：不合格", undo: "撤销", why: "原因？", whyHint: "改判需要原因，并会记入账本。",
    r_false: "误报：没有缺陷", r_accept: "可接受的瑕疵", r_missed: "漏检缺陷", r_text: "文字读错", r_worse: "比判定更严重", r_other: "其他原因", save: "保存", note: "备注", noteHint: "记入账本的备注（可选）",
    findings: "缺陷", noFindings: "没有缺陷。", texts: "文字", read: "读取", expected: "应为", notRead: "未读到", correct: "更正", history: "决定记录", noHistory: "还没有人决定。", model: "模型", answers: "模型原话", noAnswers: "模型没有发现。", latency: "用时",
    queue: "等待", preprocess: "缩放", vision: "视觉", prefill: "预填", decode: "解码", total: "总计", tiles: "图块", score: "缺陷分数", boxes: "方框", grid: "图块", heat: "与良品不同之处", draw: "画方框", fit: "全图", zoomIn: "放大", zoomOut: "缩小", remove: "删除", severity: "严重度", minor: "轻微", major: "主要", critical: "严重",
    picture_missing: "存储中缺少图片。", picture_wrong: "存储中的图片不是被检测的那一张。", unseen: "无图决定", unseenHint: "您看不到被检测的图片。账本会记录您在没有图片的情况下作出决定。",
    noImage: "图片已不再保存。", corrected: "更正尚未保存", discard: "放弃", saveCorr: "保存更正", changed: "已被他人决定，现为最新状态。", changedBy: "更改者", saved: "已保存", undone: "已撤销", confirm: "确认", override: "改判", decide: "决定", k_undo: "撤销", by: "", origin: "来源", lot: "批次", recipe: "配方", prompt: "提示",
    connected: "实时", reconnecting: "重新连接", partial: "较早的检测仍在读取", viewerOnly: "您只能查看，不能决定。", yield: "合格率", yieldHint: "合格比例，人的决定优先于模型", pareto: "各缺陷的工件数", pchart: "不合格比例", mean: "均值", limits: "控制限", alarmsNone: "受控。",
    a_outside: "超出控制限", a_shift: "偏移：连续 8 点同侧", a_run: "连续不合格", agreement: "操作员与模型", agreed: "一致", person: "人", lat: "从拍摄到判定的时间", last: "最近", h1: "1 小时", h8: "8 小时", d1: "1 天", d7: "7 天", everything: "全部",
    accounts: "账户", role: "角色", viewer: "查看者", operator: "操作员", engineer: "工程师", outbox: "发往代理的消息", owed: "尚未接收", givenUp: "已放弃", retry: "重新发送已放弃的消息", retried: "已重新加入发送队列",
    recipes: "配方", s_active: "生效", s_former: "曾生效", s_found: "发现", s_checked: "已检查", s_replayed: "已回放", s_refused: "已拒绝", replaying: "正在用此版本回放已确认的工件",
    details: "详情", makeActive: "设为生效", rollbackHint: "此版本曾经生效，将用于之后的图片。", overrideHint: "此版本从未生效：回放未通过或未完成。仍将用于之后的图片，账本会记录您的姓名和原因。",
    overridden: "由工程师决定，未经回放", recipeText: "此版本的文本", leftOut: "未回放", sample: "样本", recall: "召回率", lost: "漏检", newAlarms: "新误报", lostHint: "确认为缺陷，之前检出，而此版本放行", alarmsHint: "确认为良品，之前放行，而此版本不放行", before: "之前", now: "现在",
    learn: "学习", l_confirmed: "已确认且保留图片的工件", l_good: "良品", l_bad: "缺陷件", l_needed: "可供学习的工件太少。至少需要良品：", l_few: "良品较少，学到的结果较弱。建议至少确认：",
    l_noBank: "尚未学习参考库。参考库会把每个工件与良品比较：检查会加入配方，无需编辑文件。", l_noGate: "此配方没有设置关卡：回放已确认的工件后，学到的内容即生效，无论有何变化。请查看前后对比，变差时请回退。",
    l_judgedBy: "判定依据", l_features: "特征", l_backbone: "小型网络 (backbone)", l_tower: "模型视觉 (tower)", l_again: "重新学习", l_looking: "正在查看已确认的工件", l_learning: "正在学习", l_proving: "正在回放已确认的工件",
    l_end_active: "已学习并生效", l_end_refused: "已学习但被拒绝", l_end_cancelled: "已取消", l_end_failed: "未学到内容", l_leftOut: "个已确认的工件未用于学习", l_steps: "步骤与前后对比", l_rollBack: "回退", l_noFormer: "之前没有其他生效的版本。", l_alarmed: "与其他良品相比会误报", l_found: "会被检出",
    np_new: "新产品", np_hint: "将良品放到相机前，去掉不是良品的图片，画出区域并命名。之后的工件与这些良品比较，无需编辑文件。", np_take: "从现在开始拍摄", np_chosen: "张良品图片", np_draw: "在最新图片上画出检测区域。", np_region: "区域", np_whole: "全图", np_name: "产品名称", np_mm: "每像素毫米", np_make: "生成", np_use: "用于相机：", np_madeOf: "所用良品：",
    l_references: "参考库：与良品相似", l_head: "判别头：与缺陷件不同", l_neededEach: "判别头需要两类工件。良品和缺陷件各至少需要：", l_fewEach: "工件较少，判别头较弱。建议每类至少确认：",
    l_noHead: "尚未学习判别头。判别头根据两类工件区分缺陷件与良品；人工画出的方框可让它给出缺陷名称。检查会加入配方，无需编辑文件。",
    l_alarmedKept: "留出时会误报", l_folds: "折数", l_boxed: "带方框", l_on_references: "在学习所用的工件上测得：每个良品与其他良品比较。",
    l_on_head: "在学习时留出的工件上测得：同一批次的工件一起留出。", l_on_singly: "在逐个留出的工件上测得：同类工件都属于同一批次，对其他批次的表现未知。", l_replayed: "前后对比显示的是已确认的工件，其中包括学习所用的工件。",
    tokens: "机器令牌", add: "添加", tokenOnce: "请立即复制，只显示这一次。", copy: "复制", created: "创建", failed: "操作失败", cancel: "取消", parts: "件", newPassword: "密码（至少 8 位）", oldPassword: "当前密码", changePassword: "修改密码", passwordChanged: "已修改，您的其他会话已结束。",
    awaited: "等待中", help: "j 下一个 · k 上一个 · y 确认 · n 改判 · z 撤销 · b 方框 · g 图块 · h 热图 · d 画框 · f 全图 · / 搜索 · ? 按键", newToken: "新令牌", language: "English", theme: "主题", nothingToUndo: "没有可撤销的决定。",
    paused: "已暂停", noPipeline: "无配方", risky: "此配方可能放行缺陷件", c_fault: "故障", c_busy: "正在启动",
  },
};

let lang = localStorage.getItem("lang") || (navigator.language.startsWith("zh") ? "zh" : "en");
document.documentElement.lang = lang;

export const t = (key) => WORDS[lang][key] ?? WORDS.en[key] ?? key;

export function switchLanguage() {
  lang = lang === "en" ? "zh" : "en";
  localStorage.setItem("lang", lang);
  document.documentElement.lang = lang;
}

const locale = () => (lang === "zh" ? "zh-CN" : undefined);
export const number = (n, digits = 0) => n === null || n === undefined ? "–" : n.toLocaleString(locale(), { maximumFractionDigits: digits, minimumFractionDigits: digits });
export const percent = (x, digits = 0) => x === null || x === undefined ? "–" : number(x * 100, digits) + " %";

export function clock(at) {
  const d = new Date(at);
  return d.toLocaleTimeString(locale(), { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
}
export function day(at) {
  const d = new Date(at);
  if (d.toDateString() === new Date().toDateString()) return "";
  return d.toLocaleDateString(locale(), { month: "short", day: "numeric" });
}
export const when = (at) => [day(at), clock(at)].filter(Boolean).join(" ");
