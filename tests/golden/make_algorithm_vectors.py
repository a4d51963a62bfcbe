#!/usr/bin/env python3
"""Golden vectors for an on-policy-distillation learner. Stdlib only, float64.
Own derivation from the published formulas; every analytic gradient is checked by central differences."""
import json, math, os, random
R=random.Random(20251027)
def lse(z): m=max(z); return m+math.log(sum(math.exp(a-m) for a in z))
def lsm(z): l=lse(z); return [a-l for a in z]
def p_of(z): return [math.exp(a) for a in lsm(z)]
def fd(f,z,h=1e-5):
    g=[]
    for j in range(len(z)):
        a=z[:];a[j]+=h;b=z[:];b[j]-=h
        g.append((f(a)-f(b))/(2*h))
    return g
def close(a,b,t=1e-7): assert len(a)==len(b) and all(abs(x-y)<=t*(1+abs(x)) for x,y in zip(a,b)),(a,b)
out={}
# ---- 1. alignment: prompt P=3, completion C=4 -------------------------------------------------
prompt=[11,12,13]; comp=[21,22,23,2]; full=prompt+comp; N=len(full)
samp=[-0.50,-1.25,-0.125,-2.0]                     # sampler logprobs of completion tokens
teach_full=[None,-7.0,-6.5,-0.75,-0.25,-0.125,-3.5] # teacher logprob of full[i] given full[:i]; [0] undefined
inp=full[:-1]; tgt=full[1:]
lp_s=([0.0]*len(prompt)+samp)[1:]; mask=([0.0]*len(prompt)+[1.0]*len(comp))[1:]
lp_t=teach_full[1:]
rkl=[(s-t)*m for s,t,m in zip(lp_s,lp_t,mask)]
adv=[-1.0*m*r for m,r in zip(mask,rkl)]
def dfs(x,g):
    o=[0.0]*len(x);acc=0.0
    for i in range(len(x)-1,-1,-1): acc=x[i]+g*acc;o[i]=acc
    return o
out["alignment"]=dict(prompt=prompt,completion=comp,input=inp,target=tgt,sampler_logprobs=lp_s,mask=mask,
  teacher_prompt_logprobs_full=teach_full,teacher_logprobs_aligned=lp_t,reverse_kl=rkl,advantages_gamma0=adv,
  advantages_gamma0_5=dfs(adv,0.5),teacher_kl_metric=sum(rkl)/sum(mask),
  centred_advantages_rl_regulariser=[m*((sum(r for r in rkl)/sum(mask))-r) for m,r in zip(mask,rkl)],
  note="sum(rkl)/sum(mask) is the metric teacher_kl; the OPD trainer does NOT centre, the RL KL regulariser does")
# ---- 2. scalar losses and d/dlp ---------------------------------------------------------------
lp_th=[0.0,0.0,-0.90,-0.90,-0.10,-0.50]
def is_l(lp): return -sum(math.exp(a-b)*A*m for a,b,A,m in zip(lp,lp_s,adv,mask))
def ppo_l(lp,lo=.8,hi=1.2):
    s=0
    for a,b,A,m in zip(lp,lp_s,adv,mask):
        r=math.exp(a-b); s+=min(r*A,min(max(r,lo),hi)*A)*m
    return -s
lp=lp_th
g_is=[-math.exp(a-b)*A*m for a,b,A,m in zip(lp,lp_s,adv,mask)]
g_ppo=[]
for a,b,A,m in zip(lp,lp_s,adv,mask):
    r=math.exp(a-b); c=min(max(r,.8),1.2)
    g_ppo.append((-r*A*m) if r*A<=c*A else 0.0)
def cispo(lo=0.0,hi=4.0):
    w=[min(max(math.exp(a-b),lo),hi) for a,b in zip(lp,lp_s)]
    return -sum(x*a*A*m for x,a,A,m in zip(w,lp,adv,mask)), [-x*A*m for x,A,m in zip(w,adv,mask)]
cl,cg=cispo()
close(g_is,fd(is_l,lp)); close(g_ppo,fd(ppo_l,lp))
d=[b-a for a,b,m in zip(lp,lp_s,mask) if m]
out["losses"]=dict(learner_logprobs=lp,importance_sampling=dict(loss=is_l(lp),dloss_dlp=g_is),
  ppo_0_8_1_2=dict(loss=ppo_l(lp),dloss_dlp=g_ppo),cispo_0_4=dict(loss=cl,dloss_dlp=cg),
  kl_sample_train_v1=sum(d)/len(d),kl_sample_train_v2=.5*sum(x*x for x in d)/len(d),
  entropy=-sum(s for s,m in zip(lp_s,mask) if m)/sum(mask))
# ---- 3. logits gradient of one token; expectation identity -------------------------------------
V=6; z=[R.gauss(0,1.2) for _ in range(V)]; zt=[R.gauss(0,1.2) for _ in range(V)]
p=p_of(z); lq=lsm(zt); lpz=lsm(z)
y=2; A=lq[y]-lpz[y]; lps=lpz[y]
g_tok=[-A*1.0*((1.0 if j==y else 0.0)-p[j]) for j in range(V)]     # on-policy: ratio 1
close(g_tok,fd(lambda a:-math.exp(lsm(a)[y]-lps)*A,z))
kl=lambda a:sum(math.exp(l)*(l-t) for l,t in zip(lsm(a),lq))
g_kl=[p[j]*((lpz[j]-lq[j])-kl(z)) for j in range(V)]
close(g_kl,fd(kl,z))
exp_g=[0.0]*V
for v in range(V):
    Av=lq[v]-lpz[v]
    for j in range(V): exp_g[j]+=p[v]*(-Av*((1.0 if j==v else 0.0)-p[j]))
close(exp_g,g_kl)
# control variate baseline b=-KL leaves expectation unchanged
K=kl(z); exp_b=[0.0]*V; var0=var1=0.0
for v in range(V):
    Av=lq[v]-lpz[v]
    for j in range(V):
        s=((1.0 if j==v else 0.0)-p[j]); exp_b[j]+=p[v]*(-(Av+K)*s)
        var0+=p[v]*(Av*s)**2; var1+=p[v]*((Av+K)*s)**2
close(exp_b,g_kl)
m2=sum(x*x for x in g_kl)
out["token_gradient"]=dict(student_logits=z,teacher_logits=zt,target=y,advantage=A,dloss_dlogits=g_tok,
  exact_reverse_kl=K,exact_dKL_dlogits=g_kl,expectation_of_single_token_gradient=exp_g,
  trace_variance_no_baseline=var0-m2,trace_variance_with_baseline_minus_KL=var1-m2)
# ---- 4. off-policy: sampled from an older policy, IS ratio repairs it exactly -------------------
zo=[a+R.gauss(0,.5) for a in z]; po=p_of(zo); lpo=lsm(zo)
stale=[0.0]*V; fresh=[0.0]*V
for v in range(V):
    r=math.exp(lpz[v]-lpo[v])
    for j in range(V):
        s=((1.0 if j==v else 0.0)-p[j])
        stale[j]+=po[v]*(-(lq[v]-lpo[v])*r*s)   # advantage frozen at sampling time
        fresh[j]+=po[v]*(-(lq[v]-lpz[v])*r*s)   # advantage recomputed under the learner
close(fresh,g_kl)
out["staleness"]=dict(sampler_logits=zo,exact_dKL_dlogits=g_kl,
  expectation_frozen_advantage_with_IS=stale,expectation_recomputed_advantage_with_IS=fresh,
  note="IS ratio alone does not remove staleness bias of the frozen advantage; recomputing log pi_theta in the advantage does")
# ---- 5. top-k variants ------------------------------------------------------------------------
k=3; S=sorted(range(V),key=lambda i:-p[i])[:k]; q=[math.exp(a) for a in lq]
T=sorted(range(V),key=lambda i:-q[i])[:k]
def rk_raw(a): l=lsm(a); return sum(math.exp(l[i])*(l[i]-lq[i]) for i in S)
def rk_tail(a):
    l=lsm(a); ps=1-sum(math.exp(l[i]) for i in S); qs=1-sum(q[i] for i in S)
    return sum(math.exp(l[i])*(l[i]-lq[i]) for i in S)+ps*(math.log(ps)-math.log(qs))
def rk_ren(a):
    l=lsm(a); ls=lse([l[i] for i in S]); lt=lse([lq[i] for i in S])
    return sum(math.exp(l[i]-ls)*((l[i]-ls)-(lq[i]-lt)) for i in S)
def fk_tail(a):
    l=lsm(a); ps=1-sum(math.exp(l[i]) for i in T); qs=1-sum(q[i] for i in T)
    return sum(q[i]*(lq[i]-l[i]) for i in T)+qs*(math.log(qs)-math.log(ps))
def jsd(a,b):
    pp=p_of(a); 
    if b==0: return sum(t*(math.log(t)-math.log(s)) for s,t in zip(pp,q))
    if b==1: return sum(s*(math.log(s)-math.log(t)) for s,t in zip(pp,q))
    M=[(1-b)*s+b*t for s,t in zip(pp,q)]
    return b*sum(t*(math.log(t)-math.log(m)) for t,m in zip(q,M))+(1-b)*sum(s*(math.log(s)-math.log(m)) for s,m in zip(pp,M))
assert 0<=rk_tail(z)<=K+1e-12
out["topk"]=dict(k=k,student_support=S,teacher_support=T,student_mass=sum(p[i] for i in S),teacher_mass=sum(q[i] for i in T),
  reverse_kl_full=K,reverse_kl_topk_raw=rk_raw(z),reverse_kl_topk_tail=rk_tail(z),reverse_kl_topk_renormalised=rk_ren(z),
  forward_kl_full=jsd(z,0),forward_kl_topk_tail=fk_tail(z),jsd={str(b):jsd(z,b) for b in (0,.1,.5,.9,1)},
  d_raw=fd(rk_raw,z),d_tail=fd(rk_tail,z),d_renorm=fd(rk_ren,z),d_fwd_tail=fd(fk_tail,z))
# mass drain demonstration: gradient descent on raw vs tail from the same start
def run(f,steps=2000,lr=.5):
    a=z[:]
    for _ in range(steps):
        g=fd(f,a); a=[x-lr*y for x,y in zip(a,g)]
    pp=p_of(a); return dict(value=f(a),support_mass=sum(pp[i] for i in S),true_reverse_kl=kl(a))
out["mass_drain"]={"raw":run(rk_raw),"tail":run(rk_tail),"renormalised":run(rk_ren),"teacher_mass_on_support":sum(q[i] for i in S)}
# ---- 6. LoRA: y = W x + (alpha/r) B (A x); gradients --------------------------------------------
r,alpha,din,dout=2,32.0,3,2
Wm=[[R.gauss(0,1) for _ in range(din)] for _ in range(dout)]
Am=[[R.uniform(-1,1)/math.sqrt(din) for _ in range(din)] for _ in range(r)]
Bm=[[R.gauss(0,.1) for _ in range(r)] for _ in range(dout)]
x=[R.gauss(0,1) for _ in range(din)]; gy=[R.gauss(0,1) for _ in range(dout)]; sc=alpha/r
Ax=[sum(a*b for a,b in zip(row,x)) for row in Am]
yv=[sum(w*b for w,b in zip(Wm[i],x))+sc*sum(Bm[i][k2]*Ax[k2] for k2 in range(r)) for i in range(dout)]
dB=[[sc*gy[i]*Ax[k2] for k2 in range(r)] for i in range(dout)]
Btg=[sum(Bm[i][k2]*gy[i] for i in range(dout)) for k2 in range(r)]
dA=[[sc*Btg[k2]*x[j] for j in range(din)] for k2 in range(r)]
out["lora"]=dict(r=r,alpha=alpha,W=Wm,A=Am,B=Bm,x=x,dy=gy,y=yv,dA=dA,dB=dB)
# ---- 7. Adam as the reference configures it -----------------------------------------------------
w,mm,vv=0.5,0.0,0.0; tr=[]
for t,g in enumerate([0.3,-0.1,0.05],1):
    mm=.9*mm+.1*g; vv=.95*vv+.05*g*g
    w-=1e-4*(mm/(1-.9**t))/(math.sqrt(vv/(1-.95**t))+1e-8); tr.append(w)
out["adam"]=dict(w0=.5,grads=[.3,-.1,.05],lr=1e-4,beta1=.9,beta2=.95,eps=1e-8,weight_decay=0,trajectory=tr)
here=os.path.dirname(os.path.abspath(__file__))
json.dump(out,open(os.path.join(here,"algorithm.json"),"w"),indent=1)
print(json.dumps({k:out[k] for k in ("mass_drain",)},indent=1)); print("var",out["token_gradient"]["trace_variance_no_baseline"],out["token_gradient"]["trace_variance_with_baseline_minus_KL"])
print(out["alignment"]); print(out["losses"]); print(out["topk"]["reverse_kl_full"],out["topk"]["reverse_kl_topk_raw"],out["topk"]["reverse_kl_topk_tail"],out["topk"]["reverse_kl_topk_renormalised"])
print(out["staleness"])
